package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// Load decodes the file at path into dst as [Decode] does. A pipe or a device is read too, up to the limit
// of 1 MiB. A file that cannot be read gives an error of one line that works with [errors.Is] and
// [fs.ErrNotExist], [fs.ErrPermission] and the like.
func Load(path string, dst any) error {
	data, err := Read(path)
	if err != nil {
		return err
	}
	return Decode(path, data, dst)
}

// Read is the first half of [Load], for a caller who has to know what was decoded. Of a document that is too
// long it returns one byte more than a document may have, which [Decode] refuses.
func Read(path string) ([]byte, error) {
	data, err := read(path)
	if err != nil {
		// The operating system's error without the name of the call, which says nothing to a reader.
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
