// Package redisslot knows to which of a Redis Cluster's slots a key or a sharded channel belongs.
package redisslot

import "strings"

// Count is how many slots there are.
const Count = 16384

// Of returns the slot of a key: the CRC16 (XMODEM) of its hash tag, if it has one, or else of all of it.
func Of(key string) int {
	if _, rest, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok := strings.Cut(rest, "}"); ok && tag != "" {
			key = tag
		}
	}
	crc := uint16(0)
	for i := range len(key) {
		crc ^= uint16(key[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc) % Count
}

// Keys returns a key for each slot.
func Keys() []string {
	keys := make([]string, Count)
	for n := range 1 << 16 { // the CRC of two bytes has every value once
		key := string([]byte{byte(n >> 8), byte(n)})
		keys[Of(key)] = key
	}
	return keys
}
