// Package endpoint keeps the connections to one upstream.
package endpoint
