package faults

// Attempts lets tests count attempts without an [Injector].
type Attempts struct{ *attempts }

func NewAttempts(limit int) Attempts { return Attempts{newAttempts(limit)} }

func (a Attempts) Next(id string) int { return a.next(id) }
