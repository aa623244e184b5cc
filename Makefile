.DEFAULT_GOAL := help
.PHONY: help demo test race lint fuzz jaeger bench build ci fmt clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## run the client and a flaky upstream, and print where to look
	go run ./cmd/demo

test: ## run the tests
	go test ./...

race: ## run the tests under the race detector, in random order
	.ci/run race

lint: ## check formatting, vet, tidiness and the linters
	.ci/run format vet tidy lint

fuzz: ## fuzz every target briefly; FUZZTIME=5m for longer
	.ci/run fuzz

jaeger: ## send traces to a real Jaeger and ask for them again
	.ci/run jaeger

bench: ## run the benchmarks, also those against other libraries
	go test -run='^$$' -bench=. -benchmem ./...
	go -C test/bench test -run='^$$' -bench=. -benchmem ./...

build: ## build static binaries into dist/
	CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o dist/ ./cmd/...

ci: ## run all that a change must pass
	.ci/run

fmt: ## format the code
	gofmt -l -w cmd pkg test

clean: ## remove what was built
	rm -rf dist
