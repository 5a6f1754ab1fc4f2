// Package envconf reads settings from the environment: the part that MailHog calls.
package envconf

import (
	"fmt"
	"os"
	"strconv"
)

// FromEnvP gives the variable as a value of the default's type, and the default where it is empty or not set.
func FromEnvP(name string, fallback any) any {
	text := os.Getenv(name)
	if text == "" {
		return fallback
	}
	switch fallback.(type) {
	case string:
		return text
	case bool:
		value, err := strconv.ParseBool(text)
		if err != nil {
			panic(fmt.Sprintf("%s=%q is neither true nor false", name, text))
		}
		return value
	default:
		panic(fmt.Sprintf("%s: no settings of type %T", name, fallback))
	}
}
