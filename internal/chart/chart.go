// Package chart has the charts of the live page and of the pages of lab: a script that draws them
// in the browser, and their look.
package chart

import _ "embed"

//go:embed chart.css
var css string

// CSS returns the style sheet. It loads nothing.
func CSS() string { return css }

//go:embed chart.js
var script string

// Script returns the JavaScript module that draws the charts. It imports nothing, and has nothing
// that HTML would take for the end of a script, so that a page may have it inside.
func Script() string { return script }
