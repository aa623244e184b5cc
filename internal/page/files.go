package page

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"strconv"

	"github.com/rebound-dev/rebound/internal/chart"
)

//go:embed assets/*.html assets/*.css assets/*.js assets/*.svg
var files embed.FS

// contentSecurityPolicy allows the page only its own files and API, and nothing inline.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// handleFiles serves index.html at /, and below /assets/ every other embedded file and the charts.
func handleFiles(mux *http.ServeMux) {
	entries, err := files.ReadDir("assets")
	if err != nil {
		panic(err) // the directory is embedded
	}
	for _, e := range entries {
		at := "/assets/" + e.Name()
		if e.Name() == "index.html" {
			at = "/{$}"
		}
		content, err := files.ReadFile("assets/" + e.Name())
		if err != nil {
			panic(err) // the file is embedded
		}
		handle(mux, at, map[string]http.HandlerFunc{http.MethodGet: serveFile(e.Name(), content)})
	}
	for name, content := range map[string]string{"chart.css": chart.CSS(), "chart.js": chart.Script()} {
		handle(mux, "/assets/"+name, map[string]http.HandlerFunc{http.MethodGet: serveFile(name, []byte(content))})
	}
}

func serveFile(name string, content []byte) http.HandlerFunc {
	sum := sha256.Sum256(content)
	tag := `"` + hex.EncodeToString(sum[:8]) + `"`
	contentType := map[string]string{
		".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
	}[path.Ext(name)]
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentSecurityPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache") // browsers revalidate, so that a file of another version never uses this API
		h.Set("ETag", tag)
		h.Set("Content-Type", contentType)
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		h.Set("Content-Length", strconv.Itoa(len(content)))
		_, _ = w.Write(content)
	}
}
