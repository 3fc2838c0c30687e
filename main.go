// Command parley carries chat and notifications to every device of every user. It speaks the Socket.IO
// protocol and serves a page of its own; README.md tells how to run it, parley --help its settings.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"

	"parley/config"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole command; it returns the exit code.
func run(args []string, out io.Writer, errs *os.File) int {
	cfg, err := config.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		_, _ = fmt.Fprint(out, config.Help()) // there is nobody else to tell
		return 0
	}
	if err != nil {
		_, _ = fmt.Fprintln(errs, "parley:", err)
		return 2
	}
	log := newLogger(cfg, errs)
	if cfg.Store == config.StoreFile && os.Getenv("GOMAXPROCS") == "" {
		// A goroutine that waits for the disk keeps one of the runtime's processors, until the runtime notices: mostly not
		// before the disk has answered. With one more, all cores have work meanwhile.
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
	}
	stop, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()

	p, err := start(stop, cfg, log)
	if err != nil {
		_, _ = fmt.Fprintln(errs, "parley:", err)
		return 1
	}
	select {
	case err = <-p.failed:
		log.Error().Err(err).Msg("serving failed, stopping")
	case <-stop.Done():
		cancel() // a second signal ends the process at once
		log.Info().Stringer("within", cfg.DrainTimeout).Int("connections", p.sockets.Len()).
			Msg("stopping: connections are closed, their clients come back by themselves")
	}
	if stopErr := p.stop(); stopErr != nil {
		log.Error().Err(stopErr).Msg("stopped, but not cleanly")
		return 1
	}
	log.Info().Msg("stopped")
	if err != nil {
		return 1
	}
	return 0
}

// newLogger writes lines for people on a terminal, and JSON otherwise, unless the configuration says which.
func newLogger(cfg *config.Config, errs *os.File) zerolog.Logger {
	var w io.Writer = errs
	if cfg.LogFormat == config.LogText || cfg.LogFormat == config.LogAuto && isatty.IsTerminal(errs.Fd()) {
		w = zerolog.ConsoleWriter{Out: errs, TimeFormat: "15:04:05.000"}
	}
	return zerolog.New(w).Level(cfg.LogLevel).With().Timestamp().Logger()
}
