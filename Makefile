# Each chore is a script in ci/; .ci/run calls the same ones.

.PHONY: check format vet tidy lint test build e2e run

check: ; .ci/run
format: ; ci/format.sh -w
tidy: ; ci/tidy.sh -w
vet: ; ci/vet.sh
lint: ; ci/lint.sh
test: ; ci/test.sh
build: ; ci/build.sh
e2e: ; ci/e2e.sh
run: ; go run .
