package redisstore

import (
	"fmt"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for url, want := range map[string]string{
		"redis://localhost":                      "[localhost:6379] :@0 tls=false cluster=false master=",
		"redis://localhost:7000/5":               "[localhost:7000] :@5 tls=false cluster=false master=",
		"REDIS://localhost/":                     "[localhost:6379] :@0 tls=false cluster=false master=",
		"rediss://:p%40ss%2F%3A@host/1":          "[host:6379] :p@ss/:@1 tls=true cluster=false master=",
		"redis://me:secret@[::1]:6380":           "[[::1]:6380] me:secret@0 tls=false cluster=false master=",
		"redis://[::1]":                          "[[::1]:6379] :@0 tls=false cluster=false master=",
		"redis://a,b:7001,[::1]":                 "[a:6379 b:7001 [::1]:6379] :@0 tls=false cluster=true master=",
		"rediss://u:p@a?cluster=true":            "[a:6379] u:p@0 tls=true cluster=true master=",
		"redis-sentinel://mymaster@h1,h2:1,h3/2": "[h1:26379 h2:1 h3:26379] :@2 tls=false cluster=false master=mymaster",
		"rediss-sentinel://u:p@h1?master=m":      "[h1:26379] u:p@0 tls=true cluster=false master=m",
		"redis-sentinel://h1?master=m&sentinel_user=x&sentinel_password=y": "[h1:26379] :@0 tls=false cluster=false master=m",
		"redis://u:p@with@sign@host":                                       "[host:6379] u:p@with@sign@0 tls=false cluster=false master=",
	} {
		o, err := Parse(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		got := fmt.Sprintf("%v %s:%s@%d tls=%v cluster=%v master=%s", o.Addrs, o.Username, o.Password, o.DB, o.TLSConfig != nil, o.IsClusterMode, o.MasterName)
		if got != want {
			t.Errorf("%s:\n got %s\nwant %s", url, got, want)
		}
	}
	for url, want := range map[string]string{
		"":                                "does not start with",
		"localhost:6379":                  "does not start with",
		"http://localhost":                "does not start with",
		"redis://":                        "address 1",
		"redis://:6379":                   "address 1",
		"redis://a,,b":                    "address 2",
		"redis://a:0":                     "address 1",
		"redis://a:99999":                 "address 1",
		"redis://a:b:c":                   "address 1",
		"redis://a/x":                     "database number",
		"redis://a/-1":                    "database number",
		"redis://a/0/1":                   "database number",
		"redis://a,b/1":                   "Cluster has no databases",
		"redis://hunter2@a":               "no password",
		"redis://me:hunter2%zz@a":         "percent sign",
		"redis://:hunter2/x@a":            "address 1",
		"redis://:hun?ter2@a":             "question mark",
		"redis://a?master=hunter2":        "cluster=true",
		"redis://a?hunter2":               "cluster=true",
		"redis://a?cluster=hunter2":       "true or false",
		"redis://a?%zz=hunter2":           "question mark",
		"redis-sentinel://a,b":            "master's name",
		"redis-sentinel://:hunter2@a,b":   "master's name",
		"redis-sentinel://a?name=hunter2": "sentinel_user",
	} {
		_, err := Parse(url)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", url, err, want)
		}
		if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "ter2")) {
			t.Errorf("the error tells the password: %v", err)
		}
	}
}

// FuzzParse checks that no URL does harm, and that errors keep secrets.
func FuzzParse(f *testing.F) {
	f.Add("redis://user:pa%2Fss@host:1/2?cluster=true")
	f.Add("redis-sentinel://m@[::1],b/0?master=x")
	f.Fuzz(func(t *testing.T, url string) {
		if o, err := Parse(url); err == nil && len(o.Addrs) == 0 {
			t.Error("no address")
		}
	})
}
