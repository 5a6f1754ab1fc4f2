// Package log writes lines to standard output: the part that MailHog calls.
package log

import (
	"fmt"
	"log"
	"os"
)

var out = log.New(os.Stdout, "", log.LstdFlags)

// Printf writes a line.
func Printf(format string, values ...any) { out.Printf(format, values...) }

// Println writes a line; its first value may be a format.
func Println(values ...any) { out.Print(line(values)) }

// Info writes a line.
func Info(values ...any) { out.Print(line(values)) }

// Fatal writes a line and ends the program.
func Fatal(values ...any) { out.Fatal(line(values)) }

// Fatalf writes a line and ends the program.
func Fatalf(format string, values ...any) { out.Fatalf(format, values...) }

func line(values []any) string {
	if format, ok := values[0].(string); ok && len(values) > 1 {
		return fmt.Sprintf(format, values[1:]...)
	}
	return fmt.Sprint(values...)
}
