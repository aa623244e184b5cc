// Hello is a program for the test of gobuild.
package main

import "fmt"

func main() { fmt.Println("hello") }
