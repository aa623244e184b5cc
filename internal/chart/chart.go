// Package chart has what the charts of the live page and those of the pages of lab share: their
// look, and the marks and numbers of their axes.
package chart

import _ "embed"

//go:embed chart.css
var css string

// CSS returns the style sheet. It loads nothing.
func CSS() string { return css }
