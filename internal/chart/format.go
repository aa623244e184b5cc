package chart

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Count returns a number without decimals and with separated thousands: 1,234.
func Count(n float64) string {
	digits := strconv.FormatInt(int64(math.Abs(math.Round(n))), 10)
	for at := len(digits) - 3; at > 0; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	if math.Round(n) < 0 {
		return "-" + digits
	}
	return digits
}

// Duration returns a time in milliseconds with three digits and its unit: 45.1 ms.
func Duration(ms float64) string {
	switch {
	case ms >= 59_950:
		return fmt.Sprintf("%.1f min", ms/60_000)
	case ms >= 9_995:
		return fmt.Sprintf("%.1f s", ms/1000)
	case ms >= 999.5:
		return fmt.Sprintf("%.2f s", ms/1000)
	case ms >= 99.95:
		return fmt.Sprintf("%.0f ms", ms)
	case ms >= 0.95:
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.2f ms", ms)
}

// Tick returns the distance of a scale's marks: 1, 2 or 5 times a power of ten. It is the least one
// with which at most so many marks fit into span, which is above 0.
func Tick(span float64, most int) float64 {
	power := math.Pow(10, math.Floor(math.Log10(span/float64(most))))
	for _, n := range []float64{1, 2, 5} {
		if span/(n*power) <= float64(most) {
			return n * power
		}
	}
	return 10 * power
}

// TickText returns the text of a mark at a time in milliseconds, on a scale with this distance of
// marks.
func TickText(ms, step float64) string {
	short := func(v float64, decimals int) string {
		text := strconv.FormatFloat(v, 'f', decimals, 64)
		if decimals > 0 {
			text = strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
		}
		return text
	}
	decimals := func(one, tenth float64) int {
		switch {
		case step >= one:
			return 0
		case step >= tenth:
			return 1
		}
		return 2
	}
	if ms >= 1000 {
		return short(ms/1000, decimals(1000, 100)) + " s"
	}
	return short(ms, decimals(1, 0.1)) + " ms"
}
