package flaky

import (
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/pkg/faults"
)

// Ledger is the answer of GET /ledger.
type Ledger struct {
	// one for each order that arrived, in order of first arrival
	Effects []Effect `json:"effects"`
	// requests to GET /process and POST /orders, and calls of the gRPC service, since the start or
	// the last DELETE /ledger
	Received uint64 `json:"received"`
	// Truncated means that there were more orders or keys than the limit. Orders are missing, and a
	// repeated key may have been applied again.
	Truncated bool `json:"truncated"`
	// of the capacity model since the start; DELETE does not reset it
	Work faults.Stats `json:"work"`
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

// headerSeed carries the seed of the faults, in every answer of /faults.
const headerSeed = "Rebound-Seed"

func (s *Server) getFaults(w http.ResponseWriter, r *http.Request) {
	s.showFaults(w, r, s.faults.Spec())
}

// putFaults replaces the document. With a seed in the query it sets the seed too, as a new
// experiment needs both.
func (s *Server) putFaults(w http.ResponseWriter, r *http.Request) {
	text, given := r.URL.Query()["seed"]
	if !given {
		s.changeFaults(w, r, s.replace)
		return
	}
	seed, err := strconv.ParseUint(text[0], 10, 64)
	if err != nil || len(text) > 1 {
		refuse(w, http.StatusBadRequest, "expected one seed, a whole number from 0 to 18446744073709551615, got "+strconv.Quote(strings.Join(text, ", ")))
		return
	}
	s.changeFaults(w, r, func(document []byte) error {
		err := s.replace(document)
		if err == nil {
			s.faults.Reseed(seed)
		}
		return err
	})
}

func (s *Server) patchFaults(w http.ResponseWriter, r *http.Request) { s.changeFaults(w, r, s.amend) }

func (s *Server) changeFaults(w http.ResponseWriter, r *http.Request, change func(document []byte) error) {
	document, ok := read(w, r, maxFaults)
	if !ok {
		return
	}
	spec, err := s.change(func() error { return change(document) })
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	s.options.Logger.InfoContext(r.Context(), lineFaults, logMethod, r.Method)
	s.showFaults(w, r, spec)
}

// change makes one change of the faults, and returns the faults then in force. It lets only one
// change run at a time. It does not write the answer: a caller that does not read would block all
// other changes.
func (s *Server) change(apply func() error) (faults.Spec, error) {
	s.changing.Lock()
	defer s.changing.Unlock()
	if err := apply(); err != nil {
		return faults.Spec{}, err
	}
	s.wake()
	return s.faults.Spec(), nil
}

// Reload puts the faults from load in force, as PUT /faults does. If load fails or the faults are
// not valid, the old ones stay. Reload logs the result.
func (s *Server) Reload(load func() (faults.Spec, error)) {
	_, err := s.change(func() error {
		spec, err := load()
		if err != nil {
			return err
		}
		return s.faults.Replace(spec)
	})
	if err != nil {
		s.options.Logger.Error(lineRefused, logError, err)
		return
	}
	s.options.Logger.Info(lineRead)
}

// replace puts document in force and keeps nothing of the old one.
func (s *Server) replace(document []byte) error {
	var spec faults.Spec
	if err := config.Decode(faultsName, document, &spec); err != nil {
		return err
	}
	return s.faults.Replace(spec)
}

// amend merges patch into the faults in force. Only the fields in patch start again.
func (s *Server) amend(patch []byte) error {
	spec := s.faults.Spec()
	// A new distribution does not keep the parameters of the old one.
	type unchecked faults.Spec
	after := unchecked(spec)
	if err := config.Decode("", patch, &after); err == nil && after.Latency.Distribution != spec.Latency.Distribution {
		spec.Latency = faults.Latency{}
	}
	// Unlike the first decoding, this one reports mistakes.
	if err := config.Decode(faultsName, patch, &spec); err != nil {
		return err
	}
	named, err := config.Keys(faultsName, patch)
	if err != nil {
		return err
	}
	return s.faults.Amend(spec, faults.Restart{
		Schedule:  slices.Contains(named, "schedule"),
		FailFirst: slices.Contains(named, "failFirst"),
	})
}

// showFaults answers with the whole document. It writes JSON if the caller accepts JSON, or if it
// has no Accept header and sent JSON. Otherwise it writes YAML.
func (s *Server) showFaults(w http.ResponseWriter, r *http.Request, spec faults.Spec) {
	w.Header().Set(headerSeed, strconv.FormatUint(s.faults.Seed(), 10))
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
	_, _ = w.Write(document) // fails only if the caller has left
}

func wantsJSON(r *http.Request) bool {
	accept := strings.Join(r.Header.Values("Accept"), ",")
	if strings.TrimSpace(accept) == "" || accept == "*/*" { // curl sends */*
		return acceptsJSON(r.Header.Get("Content-Type"))
	}
	return slices.ContainsFunc(strings.Split(accept, ","), acceptsJSON)
}

// acceptsJSON reports whether one media range is application/json and is not refused with q=0.
// Other types based on JSON, such as problem+json, do not count.
func acceptsJSON(mediaRange string) bool {
	kind, parameters, err := mime.ParseMediaType(mediaRange) // lower case
	if err != nil || kind != "application/json" {
		return false
	}
	q, given := parameters["q"]
	weight, err := strconv.ParseFloat(q, 64)
	return !given || err == nil && weight > 0
}
