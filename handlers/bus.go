package handlers

import (
	"context"
	"encoding/json"
)

// PublishTo has every notification published for the processes of the older notify application too
// (contracts.md B4). Call it before clients connect.
func (n *Notify) PublishTo(publish func(ctx context.Context, id, event string, args json.RawMessage) error) {
	n.publish = publish
}

// FromBus delivers a notification of an older process to the sockets of its user on this process. Each process
// does so for its own; like all that the bus carries it is at most once, and not kept.
func (n *Notify) FromBus(id, event string, args json.RawMessage) error {
	return n.namespace.To(id).Local().Emit(notifyEvent, notification{event, id, args})
}
