// Package metrics counts what an operator of Parley wants to see: refused input, dropped packets, closed
// connections, deliveries. It wraps the Prometheus client so that no other package depends on it.
package metrics

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Name is the name of a counter, without the "parley_" prefix and the "_total" suffix.
type Name string

// Metrics is one process's set of counters and gauges. A nil *Metrics counts nothing, so tests and
// embedders that do not care can leave it out. All methods are safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	counters map[Name]*prometheus.CounterVec // fixed after New
}

// New returns an empty set with every counter in names registered at zero.
func New() *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), counters: make(map[Name]*prometheus.CounterVec)}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for name, help := range names {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "parley", Name: string(name) + "_total", Help: help,
		}, []string{"reason"})
		m.registry.MustRegister(v)
		m.counters[name] = v
	}
	return m
}

// Count adds one to the counter called name under reason, which must come from a small fixed set: never
// pass text that a client chose.
func (m *Metrics) Count(name Name, reason string) {
	if m != nil {
		m.counters[name].WithLabelValues(reason).Inc()
	}
}

// Gauge registers a value that is read when the metrics are. Call it at construction, once for each name.
func (m *Metrics) Gauge(name, help string, read func() float64) {
	if m != nil {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "parley", Name: name, Help: help,
		}, read))
	}
}

// Value returns what a counter stands at under reason; tests use it.
func (m *Metrics) Value(name Name, reason string) float64 {
	families, err := m.registry.Gather()
	if err != nil {
		return 0
	}
	for _, f := range families {
		if f.GetName() != "parley_"+string(name)+"_total" {
			continue
		}
		for _, metric := range f.GetMetric() {
			for _, l := range metric.GetLabel() {
				if l.GetName() == "reason" && l.GetValue() == reason {
					return metric.GetCounter().GetValue()
				}
			}
		}
	}
	return 0
}

// Handler serves the metrics in the Prometheus text format.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}
