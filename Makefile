.DEFAULT_GOAL := help
.PHONY: help demo test test-all race lint fuzz jaeger e2e bench build release images compose manifests ci fmt screenshot clean

TAG = $(shell sed -n 's/^appVersion: //p' helm/rebound/Chart.yaml)
VERSION = $(shell git describe --tags --always --dirty)
REVISION = $(shell git rev-parse HEAD)

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## run the client and a flaky upstream, and print where to look
	go run ./cmd/demo

test: ## run the tests of the main module
	go test ./...

test-all: test ## run the tests of the nested modules too, except e2e
	for module in chart page bench faithful interop; do go -C test/$$module test ./... || exit; done

race: ## run the tests under the race detector, in random order
	.ci/run race

lint: ## check formatting, vet, tidiness and the linters
	.ci/run format vet tidy lint

fuzz: ## fuzz every target briefly; FUZZTIME=5m for longer
	.ci/run fuzz

jaeger: ## send traces to a real Jaeger and ask for them again
	.ci/run jaeger

e2e: ## install and use all of it on a kind cluster of its own
	test/e2e/run

bench: ## run the benchmarks, also those against other libraries
	go test -run='^$$' -bench=. -benchmem ./...
	go -C test/bench test -run='^$$' -bench=. -benchmem -timeout=2h ./...

build: ## build static binaries into dist/
	CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o dist/ ./cmd/...

release: ## build the archives of a release into dist/release/, and publish nothing
	.ci/release binaries $(VERSION)
	.ci/release checksums $(VERSION)

images: ## build the container images, with the tag that the chart installs
	for program in client flaky-server; do \
		docker build -f deploy/Dockerfile --target $$program -t rebound/$$program:$(TAG) \
			--build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) . || exit; \
	done

compose: ## run client, flaky-server and Jaeger in Docker, without Kubernetes
	docker compose -f deploy/compose.yaml up --build

manifests: ## make k8s/ from the chart, and the chart's schema and README from its values
	go -C test/chart test -run=Generated -update

screenshot: ## take the pictures of the live page in docs/ again, with Chromium
	go -C test/page test -count=1 -run='TestPictures|TestLabPicture' -update

ci: ## run all that a change must pass
	.ci/run

fmt: ## format the code
	gofmt -l -w cmd internal pkg test

clean: ## remove what was built
	rm -rf dist
