package nethttp_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/nethttp"
)

func TestCheckHost(t *testing.T) {
	const name = "the host must be a name of letters, digits, dots, dashes and underscores"
	for text, want := range map[string]string{
		"http://flaky-server:5000":                       "",
		"http://flaky_server.ns.svc.cluster.local.:5000": "",
		"https://API.example.com/v1":                     "",
		"http://10.0.0.1":                                "",
		"http://[::1]:5000":                              "",
		"http://[fe80::1%25eth0]:5000":                   "",
		"http://1and1.example":                           "",
		"http://$(HOST):5000":                            name,
		"http://a,b:5000":                                name,
		"http://a;b":                                     name,
		"http://*.example.com":                           name,
		"http://ex!ample.com":                            name,
		"http://-a.example":                              name,
		"http://a-.example":                              name,
		"http://a..b":                                    name,
		"http://.a":                                      name,
		"http://.":                                       name,
		"http://b%C3%BCcher.example":                     name,
		"http://1.2.3":                                   name,
		"http://1.2.3.4.5":                               name,
		"http://256.1.1.1":                               name,
		"http://" + strings.Repeat("a", 64):              name,
		"http://" + strings.Repeat("a.", 127) + "a":      name,
		"http://unix:/run/x.sock":                        "there is no port after the colon",
		"http://a:0":                                     "the port must be from 1 to 65535",
		"http://a:65536":                                 "the port must be from 1 to 65535",
		"http://:5000":                                   "there is no host",
		"http:///path":                                   "there is no host",
	} {
		t.Run(text, func(t *testing.T) {
			u, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			err = nethttp.CheckHost(u)
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
}
