package relay

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// URL is the address by which other processes reach this one, as far as can be known here, from the address that
// it listens on: that one, or if it is that of all interfaces, the first of this machine that is not for this machine
// alone, IPv4 before IPv6. Where there is none, only processes of the same machine can reach it.
func URL(listening net.Addr) (string, error) {
	at, err := netip.ParseAddrPort(listening.String())
	if err != nil {
		return "", fmt.Errorf("%s is no TCP address: %w", listening, err)
	}
	host := at.Addr().Unmap()
	if host.IsUnspecified() {
		if host, err = ownAddress(); err != nil {
			return "", err
		}
	}
	return "http://" + net.JoinHostPort(host.String(), strconv.Itoa(int(at.Port()))), nil
}

// ownAddress is the address of this machine that others most likely reach.
func ownAddress() (netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list the addresses of this machine: %w", err)
	}
	best := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	for _, a := range all {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || !p.Addr().IsGlobalUnicast() { // link-local ones need an interface, too
			continue
		}
		if ip := p.Addr().Unmap(); ip.Is4() {
			return ip, nil
		} else if best.IsLoopback() {
			best = ip
		}
	}
	return best, nil
}
