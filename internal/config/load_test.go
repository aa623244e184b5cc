package config_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/rebound-dev/rebound/internal/config"
)

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "rebound.yaml")
	if err := os.WriteFile(file, []byte(whole), 0o600); err != nil {
		t.Fatal(err)
	}
	var d document
	if err := config.Load(file, &d); err != nil || !d.Verbose {
		t.Errorf("got error %v, %+v, want no error and verbose set", err, d)
	}

	broken := filepath.Join(dir, "broken.yaml")
	if err := os.WriteFile(broken, []byte("verbos: true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		path, want string
		is         error
	}{
		"missing":   {filepath.Join(dir, "none.yaml"), filepath.Join(dir, "none.yaml") + ": cannot be read: no such file or directory", fs.ErrNotExist},
		"directory": {dir, dir + ": cannot be read: is a directory", syscall.EISDIR},
		"no_name":   {"", ": cannot be read: no such file or directory", fs.ErrNotExist},
		"endless":   {"/dev/zero", "/dev/zero:1:1: expected at most 1 MiB, got more", nil},
		"empty":     {os.DevNull, os.DevNull + ":1:1: is empty, expected a mapping with keys verbose, routes, policies, limits, note, nested, chain", nil},
		"mistake":   {broken, broken + `:1:1: verbos: unknown key, did you mean "verbose"? allowed: verbose, routes, policies, limits, note, nested, chain`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			err := config.Load(tc.path, &document{})
			if err == nil || err.Error() != tc.want {
				t.Errorf("got %v\nwant %s", err, tc.want)
			}
			if tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("got %v, want it to wrap %v", err, tc.is)
			}
		})
	}
}

func TestLoadPipe(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if _, err := writer.WriteString("verbose: true\n"); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	var d document
	if err := config.Load(fmt.Sprintf("/dev/fd/%d", reader.Fd()), &d); err != nil || !d.Verbose {
		t.Errorf("got error %v, %+v, want no error and verbose set", err, d)
	}
}

func TestLoadUnreadable(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("everything is readable to root")
	}
	file := filepath.Join(t.TempDir(), "secret.yaml")
	if err := os.WriteFile(file, nil, 0); err != nil {
		t.Fatal(err)
	}
	err := config.Load(file, &document{})
	if !errors.Is(err, fs.ErrPermission) || err.Error() != file+": cannot be read: permission denied" {
		t.Errorf("got %v", err)
	}
}
