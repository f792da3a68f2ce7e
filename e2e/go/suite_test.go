// Runs containerd's own snapshotter test suite against the socket in NYDUS_SOCKET.
package e2e

import (
	"context"
	"os"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func TestSnapshotter(t *testing.T) {
	socket := os.Getenv("NYDUS_SOCKET")
	if socket == "" {
		t.Fatal("NYDUS_SOCKET names the snapshotter's socket")
	}
	connect := func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, nil, err
		}
		s := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "nydus")
		// The suite expects an empty snapshotter each time; all its tests share this one.
		return s, func() error {
			defer conn.Close()
			return removeAll(ctx, s)
		}, nil
	}
	testsuite.SnapshotterSuite(t, "nydus", connect)
}

// removeAll removes children before parents: as long as a round removes something, another may.
func removeAll(ctx context.Context, s snapshots.Snapshotter) error {
	for {
		var keys []string
		if err := s.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
			keys = append(keys, info.Name)
			return nil
		}); err != nil || len(keys) == 0 {
			return err
		}
		removed := 0
		var last error
		for _, key := range keys {
			if last = s.Remove(ctx, key); last == nil {
				removed++
			}
		}
		if removed == 0 {
			return last
		}
	}
}
