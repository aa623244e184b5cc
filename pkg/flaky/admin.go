package flaky

import (
	"mime"
	"net/http"
	"strings"

	"github.com/rebound-dev/rebound/pkg/config"
	"github.com/rebound-dev/rebound/pkg/faults"
)

// Ledger is the answer of GET /ledger.
type Ledger struct {
	Effects  []Effect `json:"effects"`  // one for each order that took effect, by its first application
	Received uint64   `json:"received"` // requests to GET /process and POST /orders since the start or DELETE /ledger
	// Truncated says that there were more orders or keys than are remembered: orders are missing, and a repeated
	// key may have been applied again.
	Truncated bool         `json:"truncated"`
	Work      faults.Stats `json:"work"` // of the capacity model since the start; DELETE does not change it
}

func (s *Server) getLedger(w http.ResponseWriter, _ *http.Request) {
	l := Ledger{Work: s.queue.Stats()}
	l.Effects, l.Received, l.Truncated = s.ledger.effects()
	writeJSON(w, http.StatusOK, l)
}

func (s *Server) deleteLedger(w http.ResponseWriter, _ *http.Request) {
	s.ledger.reset()
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) getFaults(w http.ResponseWriter, r *http.Request) {
	s.showFaults(w, r)
}

func (s *Server) putFaults(w http.ResponseWriter, r *http.Request) {
	s.changeFaults(w, r, func([]byte) faults.Spec { return faults.Spec{} })
}

func (s *Server) patchFaults(w http.ResponseWriter, r *http.Request) {
	s.changeFaults(w, r, func(patch []byte) faults.Spec {
		spec := s.faults.Spec()
		// The parameters of one distribution mean nothing to another: with a new one they do not stay.
		type unchecked faults.Spec
		after := unchecked(spec)
		if err := config.Decode("", patch, &after); err == nil && after.Latency.Distribution != spec.Latency.Distribution {
			spec.Latency = faults.Latency{}
		}
		return spec // what is wrong with the patch is said when it is decoded for good
	})
}

// changeFaults puts the document of r over what base says.
func (s *Server) changeFaults(w http.ResponseWriter, r *http.Request, base func(document []byte) faults.Spec) {
	document, ok := read(w, r, maxFaults)
	if !ok {
		return
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	spec := base(document)
	err := config.Decode("faults", document, &spec)
	if err == nil {
		err = s.faults.Replace(spec)
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	s.options.Logger.InfoContext(r.Context(), "faults changed", "method", r.Method)
	s.showFaults(w, r)
}

// showFaults answers with the whole document: as JSON if the caller accepts JSON, or says nothing of what it
// accepts and sent JSON; as YAML otherwise.
func (s *Server) showFaults(w http.ResponseWriter, r *http.Request) {
	spec := s.faults.Spec()
	if wantsJSON(r) {
		writeJSON(w, http.StatusOK, spec)
		return
	}
	document, err := config.Marshal(spec)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = w.Write(document) // fails only when the caller has gone
}

func wantsJSON(r *http.Request) bool {
	accept := r.Header.Get("Accept")
	if accept == "" || accept == "*/*" { // curl sends the latter
		accept, _, _ = mime.ParseMediaType(r.Header.Get("Content-Type"))
	}
	return strings.Contains(accept, "json")
}
