package page_test

import (
	"bytes"
	"encoding/xml"
	"image"
	"image/gif"
	_ "image/png"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The pictures of the README are no taller than 600 px in the width that GitHub gives them, and one
// of them moves.
func TestPicturesOfTheREADME(t *testing.T) {
	const column, tallest, largest = 830, 600, 1_000_000
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	pictures := regexp.MustCompile(`!\[[^\]]*\]\((docs/[^)]+)\)`).FindAllSubmatch(readme, -1)
	if len(pictures) < 3 {
		t.Fatalf("found %d pictures in README.md, want at least 3", len(pictures))
	}
	moving := 0
	for _, p := range pictures {
		name := string(p[1])
		data, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			t.Fatal(err)
		}
		width, height := 0.0, 0.0
		if strings.HasSuffix(name, ".svg") {
			width, height = sizeOfSVG(t, data)
		} else {
			size, _, err := image.DecodeConfig(bytes.NewReader(data))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			width, height = float64(size.Width), float64(size.Height)
		}
		if shown := height * min(1, column/width); shown > tallest {
			t.Errorf("%s is %.0f px tall at a width of %d, want at most %d", name, shown, column, tallest)
		}
		if len(data) > largest {
			t.Errorf("%s has %d bytes, want at most %d", name, len(data), largest)
		}
		if strings.HasSuffix(name, ".gif") {
			film, err := gif.DecodeAll(bytes.NewReader(data))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if len(film.Image) > 1 {
				moving++
			}
		}
	}
	if moving != 1 {
		t.Errorf("%d pictures move, want one", moving)
	}
}

func sizeOfSVG(t *testing.T, data []byte) (width, height float64) {
	t.Helper()
	var svg struct {
		Width  string `xml:"width,attr"`
		Height string `xml:"height,attr"`
	}
	if err := xml.Unmarshal(data, &svg); err != nil {
		t.Fatal(err)
	}
	for text, into := range map[string]*float64{svg.Width: &width, svg.Height: &height} {
		n, err := strconv.ParseFloat(strings.TrimSuffix(text, "px"), 64)
		if err != nil {
			t.Fatalf("a picture of %q by %q: %v", svg.Width, svg.Height, err)
		}
		*into = n
	}
	return width, height
}

// Above the first picture of the README are three links: for a Go service, for any service, and for
// the policy of today. Each leads to a heading.
func TestLinksAtTheTopOfTheREADME(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	top, _, _ := strings.Cut(string(readme), "![")
	anchors := map[string]bool{}
	for _, h := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(string(readme), -1) {
		kept := regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(h[1]), "")
		anchors["#"+strings.ReplaceAll(kept, " ", "-")] = true
	}
	var about []string
	for _, link := range regexp.MustCompile(`\[([^\]]+)\]\(([^)]+)\)`).FindAllStringSubmatch(top, -1) {
		about = append(about, strings.Join(strings.Fields(link[1]), " "))
		if !anchors[link[2]] {
			t.Errorf("the link %q leads to %s, want a heading of the README", link[1], link[2])
		}
	}
	if want := []string{"for a Go service", "for any service", "for the policy that you have now"}; !slices.Equal(about, want) {
		t.Errorf("links at the top = %q, want %q", about, want)
	}
}
