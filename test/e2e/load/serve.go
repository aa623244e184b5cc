package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// upstream answers callers that show one of the certificates in clients.crt and send one of the
// words in tokens as Authorization. Its own certificate is the one that tls.crt and tls.key have at
// the moment of the handshake.
type upstream struct {
	dir    string
	tokens []string

	mu     sync.Mutex
	own    *tls.Certificate
	served int
	told   map[string]bool
}

// serve serves HTTPS with the files in dir until ctx ends. It prints each certificate that it
// serves, and each caller with its token, when it is new.
func serve(ctx context.Context, addr, dir string) error {
	tokens, err := os.ReadFile(filepath.Join(dir, "tokens"))
	if err != nil {
		return err
	}
	clients, err := os.ReadFile(filepath.Join(dir, "clients.crt"))
	if err != nil {
		return err
	}
	known := x509.NewCertPool()
	if !known.AppendCertsFromPEM(clients) {
		return errors.New("clients.crt has no certificate")
	}
	u := &upstream{dir: dir, tokens: strings.Fields(string(tokens)), told: map[string]bool{}}
	if _, err := u.certificate(nil); err != nil {
		return err
	}
	server := &http.Server{
		Addr: addr, Handler: u, ReadHeaderTimeout: 10 * time.Second, Protocols: new(http.Protocols),
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: known, GetCertificate: u.certificate},
		ErrorLog:  log.New(io.Discard, "", 0), // the probes of the kubelet make no handshake
	}
	server.Protocols.SetHTTP1(true)
	return untilDone(ctx, server, func() error { return server.ListenAndServeTLS("", "") })
}

// serveUploads serves HTTP until ctx ends. It reads each body, and answers a second later.
func serveUploads(ctx context.Context, addr string) error {
	server := &http.Server{Addr: addr, ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // its caller has left
		time.Sleep(time.Second)
	})}
	return untilDone(ctx, server, server.ListenAndServe)
}

// untilDone shuts the server down when ctx ends.
func untilDone(ctx context.Context, server *http.Server, listen func() error) error {
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		stopped <- server.Shutdown(context.WithoutCancel(ctx))
	}()
	if err := listen(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

// certificate returns the present certificate, or the last one while the files do not fit together.
func (u *upstream) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	now, err := tls.LoadX509KeyPair(filepath.Join(u.dir, "tls.crt"), filepath.Join(u.dir, "tls.key"))
	u.mu.Lock()
	defer u.mu.Unlock()
	if err != nil {
		if u.own == nil {
			return nil, err
		}
		return u.own, nil
	}
	u.own = &now
	u.tell(fmt.Sprintf("serves %v", now.Leaf.SerialNumber))
	return u.own, nil
}

// ServeHTTP asks every tenth caller to close its connection, so that new ones are made all the
// time.
func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token := r.Header.Get("Authorization")
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.served++; u.served%10 == 0 {
		w.Header().Set("Connection", "close")
	}
	if !slices.Contains(u.tokens, token) {
		http.Error(w, "unknown token", http.StatusForbidden)
		return
	}
	u.tell(fmt.Sprintf("caller %v %s", r.TLS.PeerCertificates[0].SerialNumber, token))
	fmt.Fprintln(w, "ok")
}

// tell prints what has not been printed yet. It needs mu.
func (u *upstream) tell(what string) {
	if !u.told[what] {
		u.told[what] = true
		fmt.Println(what)
	}
}
