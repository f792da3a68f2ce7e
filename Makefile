# The words people try first. Everything is done by npm scripts; see README.md.
# make install PREFIX=/usr DESTDIR=/tmp/root SYSCONFDIR=/etc UNITDIR=/lib/systemd/system
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
UNITDIR ?= $(SYSCONFDIR)/systemd/system
export PREFIX SYSCONFDIR UNITDIR DESTDIR

.PHONY: all build install uninstall test check clean

all: build

build:
	scripts/setup node
	npm run --silent build

install:
	scripts/setup node
	npm run --silent install-system

uninstall:
	scripts/setup node
	npm run --silent install-system -- --uninstall

test:
	./test

check:
	scripts/setup node
	npm run --silent check

clean:
	rm -rf dist packages/*/dist .nx
	rm -f bin/containerd-nydus-grpc bin/nydusd bin/nydusctl bin/nydus-image bin/nydusify
