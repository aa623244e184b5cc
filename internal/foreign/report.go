package foreign

// Kind is what became of a field.
type Kind string

// The kinds.
const (
	// Carried: the policy has the same value with the same meaning.
	Carried Kind = "carried"
	// Approximated: the policy has something close. The sentence says what is different.
	Approximated Kind = "approximated"
	// Dropped: the policy has nothing for it. The sentence says why.
	Dropped Kind = "dropped"
	// Unrelated: the field says nothing about failures.
	Unrelated Kind = "unrelated"
	// Default: the file does not have the field; the sentence says which default applies.
	Default Kind = "default"
)

// Entry says what became of one field, or, for Unrelated, of all fields below one.
type Entry struct {
	Place
	Kind Kind
	// Sentence explains the kind. Empty for Carried and Unrelated.
	Sentence string
	// Fields is the number of values in the file that the entry accounts for. 0 for Default.
	Fields int
	// Absent means that the sentence is about an object that is not in the file. It may be
	// elsewhere.
	Absent bool
}

// Report has an entry for every field of a file, in the order of the file. Defaults come last.
type Report []Entry

// Fields returns the number of values in the file that the report accounts for.
func (r Report) Fields() int {
	n := 0
	for _, e := range r {
		n += e.Fields
	}
	return n
}
