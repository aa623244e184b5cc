// Package chart has the look of the charts, which the live page and the pages of lab share.
package chart

import _ "embed"

//go:embed chart.css
var css string

// CSS returns the style sheet. It loads nothing.
func CSS() string { return css }
