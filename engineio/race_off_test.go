//go:build !race

package engineio

// RaceEnabled tells whether the race detector is on, which allocates.
const RaceEnabled = false
