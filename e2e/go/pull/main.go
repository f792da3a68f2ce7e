// Pulls an image as a program does that uses containerd's client and not CRI: unpacking while it pulls, and with no label but those
// that containerd itself puts on layers.
//
//	pull SOCKET NAMESPACE SNAPSHOTTER REFERENCE
package main

import (
	"context"
	"fmt"
	"os"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/namespaces"
)

func main() {
	if err := pull(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func pull(args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("usage: pull SOCKET NAMESPACE SNAPSHOTTER REFERENCE")
	}
	client, err := containerd.New(args[0])
	if err != nil {
		return err
	}
	defer client.Close()
	ctx := namespaces.WithNamespace(context.Background(), args[1])
	hosts := docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchLocalhost))
	image, err := client.Pull(ctx, args[3],
		containerd.WithResolver(docker.NewResolver(docker.ResolverOptions{Hosts: hosts})),
		containerd.WithPullUnpack,
		containerd.WithPullSnapshotter(args[2]))
	if err != nil {
		return err
	}
	fmt.Println(image.Target().Digest)
	return nil
}
