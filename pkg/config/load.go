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
	data, err := read(path)
	if err != nil {
		// The operating system's error without the name of the call, which says nothing to a reader.
		if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
			err = pathErr.Err
		}
		return fmt.Errorf("%s: cannot be read: %w", path, err)
	}
	return Decode(path, data, dst)
}

// read returns one byte more than a document may have where there is more: Decode then refuses it.
func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxBytes+1))
}
