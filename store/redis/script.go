package redisstore

import (
	"context"
	"crypto/sha1" // #nosec G505 -- the name by which Redis knows a script, not a protection
	"embed"
	"encoding/hex"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// script is a Lua script and the name by which Redis knows it.
type script struct{ text, sha string }

// newScript joins files of the folder lua.
func newScript(names ...string) *script {
	var text strings.Builder
	for _, name := range names {
		b, err := luaFiles.ReadFile("lua/" + name + ".lua")
		if err != nil {
			panic(err) // a name in this file is wrong
		}
		text.Write(b)
	}
	sum := sha1.Sum([]byte(text.String())) // #nosec G401 -- see above
	return &script{text.String(), hex.EncodeToString(sum[:])}
}

var (
	scriptAppend = newScript("append_usual", "append_next", "mailbox", "append")
	scriptMany   = newScript("append_usual", "append_long", "mailbox", "append", "append_many")
	scriptProbe  = newScript("probe")
	scriptSettle = newScript("mailbox", "settle")
	scriptTail   = newScript("mailbox", "tail")
	scriptAfter  = newScript("mailbox", "after")
	scriptPages  = newScript("mailbox", "pages")

	scriptAdvance = newScript("mailbox", "advance")
	scriptMarks   = newScript("mailbox", "marks")
	scriptReach   = newScript("mailbox", "reach")

	scriptSaveSession  = newScript("session_save")
	scriptTouchSession = newScript("session_touch")
	scriptMarkSession  = newScript("session_mark")

	scriptRecovery = newScript("recovery")

	scriptSeeUser    = newScript("user", "user_see")
	scriptForgetUser = newScript("user", "user_forget")
	scriptSweepUsers = newScript("user", "user_sweep")

	scriptEnter = newScript("presence", "presence_enter")
	scriptLeave = newScript("presence", "presence_leave")
	scriptDrop  = newScript("presence", "presence_drop")

	scriptJoin  = newScript("lease", "lease_join")
	scriptRenew = newScript("lease", "lease_renew")
	scriptEnd   = newScript("lease", "lease_end")
)

// command is a command or a script, and its reply once it was sent.
type command struct {
	*redis.Cmd
	script *script // nil: a command
	keys   []string
	args   []any
	add    *addition // an append: script, keys and args are filled in when it is sent by itself
}

// plain returns a command. Its arguments may not be changed afterwards.
func plain(args ...any) *command { return &command{args: args} }

// run returns a call of the script.
func (s *script) run(keys []string, args ...any) *command {
	return &command{script: s, keys: keys, args: args}
}

// queue adds the command to a pipeline; whole sends a script itself instead of its name.
func (c *command) queue(ctx context.Context, pipe redis.Pipeliner, whole bool) {
	if c.script == nil {
		c.Cmd = pipe.Do(ctx, c.args...)
		return
	}
	args := make([]any, 0, 3+len(c.keys)+len(c.args))
	if whole {
		args = append(args, "eval", c.script.text)
	} else {
		args = append(args, "evalsha", c.script.sha)
	}
	args = append(args, len(c.keys))
	for i := range c.keys {
		if c.script == scriptMany {
			args = append(args, &c.keys[i]) // which is not copied; in a Cluster, where the client looks at it, it must be a string
		} else {
			args = append(args, c.keys[i])
		}
	}
	c.Cmd = pipe.Do(ctx, append(args, c.args...)...)
}

// failure returns why the command was not done; that there is nothing to find is no failure.
func (c *command) failure() error {
	if err := c.Err(); err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	return nil
}

// pipeline sends the commands together. What came of each is in it. What Redis did not know the script of is sent a second
// time, with the script in full, and with it what stands behind it for the same keys: that has been done ahead of it, and
// once more in its order the outcome is as if it had not. Nothing else is done twice.
func pipeline(ctx context.Context, client redis.UniversalClient, commands []*command) {
	execute(ctx, client, commands, false)
	if !slices.ContainsFunc(commands, (*command).unknown) {
		return
	}
	var again []*command
	keys := map[string]bool{} // of those in again
	for _, c := range commands {
		if !c.unknown() && !slices.ContainsFunc(c.touches(), func(key string) bool { return keys[key] }) {
			continue
		}
		again = append(again, c)
		for _, key := range c.touches() {
			keys[key] = true
		}
	}
	execute(ctx, client, again, true)
}

// unknown reports whether Redis did not know the command's script.
func (c *command) unknown() bool {
	return c.script != nil && c.Err() != nil && redis.HasErrorPrefix(c.Err(), "NOSCRIPT")
}

// touches returns the keys that the command is about.
func (c *command) touches() []string {
	if c.script != nil {
		return c.keys
	}
	if len(c.args) > 1 {
		if key, ok := c.args[1].(string); ok {
			return []string{key}
		}
	}
	return nil
}

func execute(ctx context.Context, client redis.UniversalClient, commands []*command, whole bool) {
	pipe := client.Pipeline()
	for _, c := range commands {
		c.queue(ctx, pipe, whole)
	}
	_, _ = pipe.Exec(ctx) // every command has its own error
}

// do is pipeline, and the first failure.
func do(ctx context.Context, client redis.UniversalClient, commands ...*command) error {
	pipeline(ctx, client, commands)
	return firstFailure(commands)
}

func firstFailure(commands []*command) error {
	for _, c := range commands {
		if err := c.failure(); err != nil {
			return err
		}
	}
	return nil
}

// list returns a reply that is a list; no reply is an empty one.
func (c *command) list() []any {
	items, _ := c.Val().([]any)
	return items
}

// text returns item i of a list if it is a string, or else "".
func text(list []any, i int) string {
	if i >= len(list) {
		return ""
	}
	s, _ := list[i].(string)
	return s
}

// number returns item i of a list if it is a number, or the text of one.
func number(list []any, i int) (uint64, bool) {
	if i >= len(list) {
		return 0, false
	}
	switch v := list[i].(type) {
	case int64:
		return uint64(v), v >= 0
	case string:
		n, err := strconv.ParseUint(v, 10, 64)
		return n, err == nil
	}
	return 0, false
}
