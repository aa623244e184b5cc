package docs_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"testing"
)

type object = map[string]any

// jsonSchema returns the document as a JSON Schema.
func (d *document) jsonSchema(t *testing.T, title string) []byte {
	t.Helper()
	s := d.root.jsonSchema()
	s["$schema"] = "http://json-schema.org/draft-07/schema#"
	s["title"] = title
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(s); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func (k *key) jsonSchema() object {
	s := maps.Clone(k.schema)
	if k.doc != "" {
		s["description"] = k.doc
	}
	if k.standard != nil {
		s["default"] = k.standard
	}
	if k.optional {
		switch types := s["type"].(type) {
		case string:
			s["type"] = []string{types, "null"}
		case []string:
			s["type"] = append(types, "null")
		}
	}
	switch {
	case k.keys != nil:
		properties, required := object{}, []string(nil)
		for _, c := range k.keys {
			properties[c.name()] = c.jsonSchema()
			if c.required {
				required = append(required, c.name())
			}
		}
		s["properties"], s["additionalProperties"] = properties, false
		if required != nil {
			s["required"] = required
		}
	case s["type"] == "array":
		s["items"] = k.element.jsonSchema()
	case k.element != nil:
		s["additionalProperties"] = k.element.jsonSchema()
	}
	return s
}
