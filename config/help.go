package config

import (
	"fmt"
	"strings"
)

// helpWidth is the width that help texts are wrapped to, in columns.
const helpWidth = 100

// Help describes how to start the program and every setting there is.
func Help() string {
	var b strings.Builder
	b.WriteString(`Parley carries chat and notifications to every device of every user: a Socket.IO server in one
binary.

Usage: parley [--setting=value ...]

Each setting is a flag or an environment variable; the flag wins. Times are written like 500ms,
25s, 2m or 24h.
`)
	for _, s := range settings {
		if s.section != "" {
			fmt.Fprintf(&b, "\n%s\n", s.section)
		}
		fmt.Fprintf(&b, "  --%-24s %-24s default: %s\n", s.flag(), s.env, s.preset())
		for _, l := range wrap(s.help, helpWidth-6) {
			fmt.Fprintf(&b, "      %s\n", l)
		}
	}
	fmt.Fprintf(&b, "\n  --%-24s %-24s\n      this text\n", "help", "")
	return trimLines(b.String())
}

// plain keeps Markdown from reading anything into a text.
var plain = strings.NewReplacer("|", `\|`, "*", `\*`)

// Markdown is the table of settings for README.md.
func Markdown() string {
	var b strings.Builder
	b.WriteString("| Setting | Default | What it does |\n|---|---|---|\n")
	for _, s := range settings {
		preset := s.preset()
		if s.shown == "" && s.fallback != "" {
			preset = "`" + preset + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", s.env, plain.Replace(preset), plain.Replace(s.help))
	}
	return b.String()
}

// wrap breaks text into lines of at most width columns.
func wrap(text string, width int) []string {
	var lines []string
	current := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case current == "":
			current = word
		case len(current)+1+len(word) > width:
			lines = append(lines, current)
			current = word
		default:
			current += " " + word
		}
	}
	return append(lines, current)
}

// trimLines removes the spaces at the ends of lines.
func trimLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}
