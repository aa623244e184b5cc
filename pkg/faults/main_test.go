package faults_test

import (
	"testing"

	"github.com/rebound-dev/rebound/internal/testkit/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }
