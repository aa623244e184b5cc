package page_test

import (
	"bytes"
	"cmp"
	"image"
	"image/color"
	"image/gif"
	"image/png"
	"os"
	"slices"
	"testing"
)

// film collects pictures for an animated GIF. Its pictures have the same size.
type film struct {
	frames []image.Image
	delays []int // how long each is shown, in hundredths of a second
}

func (f *film) add(t *testing.T, picture []byte, delay int) {
	t.Helper()
	frame, err := png.Decode(bytes.NewReader(picture))
	if err != nil {
		t.Fatal(err)
	}
	f.frames, f.delays = append(f.frames, frame), append(f.delays, delay)
}

// write writes the film in the colours that it uses most. A frame has only what differs from the
// one before, which keeps the file small.
func (f *film) write(t *testing.T, file string) {
	t.Helper()
	const colours = 63
	type rgb [3]uint8
	of := func(c color.Color) rgb { // of 32 levels each
		r, g, b, _ := c.RGBA()
		return rgb{uint8(r>>8) &^ 7, uint8(g>>8) &^ 7, uint8(b>>8) &^ 7}
	}
	counts, sums := map[rgb]int{}, map[rgb][3]int{}
	for _, frame := range f.frames {
		for y := frame.Bounds().Min.Y; y < frame.Bounds().Max.Y; y++ {
			for x := frame.Bounds().Min.X; x < frame.Bounds().Max.X; x++ {
				c := frame.At(x, y)
				r, g, b, _ := c.RGBA()
				k := of(c)
				s := sums[k]
				counts[k], sums[k] = counts[k]+1, [3]int{s[0] + int(r>>8), s[1] + int(g>>8), s[2] + int(b>>8)}
			}
		}
	}
	var keys []rgb
	for k := range counts {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b rgb) int { return cmp.Or(counts[b]-counts[a], slices.Compare(a[:], b[:])) })
	palette := color.Palette{color.Transparent}
	for _, k := range keys[:min(colours, len(keys))] {
		n, s := counts[k], sums[k]
		palette = append(palette, color.RGBA{uint8(s[0] / n), uint8(s[1] / n), uint8(s[2] / n), 255})
	}
	nearest := map[rgb]uint8{}
	for k := range counts {
		n, s := counts[k], sums[k]
		nearest[k] = uint8(1 + palette[1:].Index(color.RGBA{uint8(s[0] / n), uint8(s[1] / n), uint8(s[2] / n), 255}))
	}
	out := gif.GIF{LoopCount: 0}
	var before *image.Paletted
	for i, frame := range f.frames {
		all := image.NewPaletted(frame.Bounds(), palette)
		changed := image.NewPaletted(frame.Bounds(), palette)
		var box image.Rectangle
		for y := all.Rect.Min.Y; y < all.Rect.Max.Y; y++ {
			for x := all.Rect.Min.X; x < all.Rect.Max.X; x++ {
				at := nearest[of(frame.At(x, y))]
				all.SetColorIndex(x, y, at)
				if before == nil || before.ColorIndexAt(x, y) != at {
					changed.SetColorIndex(x, y, at)
					box = box.Union(image.Rect(x, y, x+1, y+1))
				}
			}
		}
		if box.Empty() {
			box = image.Rect(0, 0, 1, 1)
		}
		out.Image = append(out.Image, changed.SubImage(box).(*image.Paletted))
		out.Delay = append(out.Delay, f.delays[i])
		out.Disposal = append(out.Disposal, gif.DisposalNone)
		before = all
	}
	out.Config = image.Config{ColorModel: palette, Width: before.Rect.Dx(), Height: before.Rect.Dy()}
	var b bytes.Buffer
	if err := gif.EncodeAll(&b, &out); err != nil {
		t.Fatal(err)
	}
	if b.Len() > 1_000_000 {
		t.Errorf("the film has %d bytes, want at most 1,000,000", b.Len())
	}
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
