package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// Load decodes the file at path into dst as [Decode] does. Pipes and devices are read up to the
// limit of 1 MiB. If the file cannot be read, the error is one line and works with [errors.Is] and
// [fs.ErrNotExist], [fs.ErrPermission] and the like.
func Load(path string, dst any) error {
	data, err := Read(path)
	if err != nil {
		return err
	}
	return Decode(path, data, dst)
}

// Read is the first half of [Load], for callers that need the text too. It stops one byte after the
// size limit; [Decode] then rejects the document as too large.
func Read(path string) ([]byte, error) {
	data, err := read(path)
	if err != nil {
		// Keep the system's error without the name of the system call.
		if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
			err = pathErr.Err
		}
		return nil, fmt.Errorf("%s: cannot be read: %w", path, err)
	}
	return data, nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxBytes+1))
}
