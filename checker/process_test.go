package main

import (
	"strings"
	"testing"
)

func TestNoRedis(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	var found trouble
	if _, err := newRedis(t.TempDir(), &found); err == nil || !strings.Contains(err.Error(), "install Redis") {
		t.Errorf("without redis-server: %v", err)
	}
}

func TestComplete(t *testing.T) {
	for scenario, want := range map[string]options{
		"faults":  {scenario: "faults", copies: 1},
		"rolling": {scenario: "rolling", copies: 3, redis: true},
	} {
		o := options{scenario: scenario}
		o.complete()
		if o != want {
			t.Errorf("%s: %+v", scenario, o)
		}
	}
	o := options{scenario: "faults", redis: true}
	o.complete()
	if o.copies != 3 {
		t.Errorf("with Redis: %d processes", o.copies)
	}
	o = options{scenario: "churn", redis: true}
	o.complete()
	if o.copies != 1 {
		t.Errorf("churn with Redis: %d processes", o.copies)
	}
}
