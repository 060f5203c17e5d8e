# ngx_umami_module: an edge gateway for Umami as an NGINX module.

SHELL = /bin/bash
JOBS ?= 2
PROVE = prove -It/lib -j$(JOBS) --timer

.DEFAULT_GOAL := help
.PHONY: help build run test test-asan test-static check fuzz bench accuracy \
    test-versions image image-sbom image-test clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' \
	    $(MAKEFILE_LIST)

build: ## build build/ngx_umami_module.so for the installed nginx
	@t/tools/need build
	@t/tools/build dynamic build

run: ## the gateway before a real Umami, with a demo shop to visit
	@t/tools/need build umami-run
	@t/tools/build dynamic build
	@t/umami/run

test: ## build, then run every test and check, with sanitizers too
	@t/tools/need build test umami-test asan check fuzz
	@t/tools/test

test-asan: ## the tests with ASan and UBSan, the module linked in
	@t/tools/need build test umami-test asan
	@t/tools/build asan build/asan
	@TEST_NGINX_BINARY=$(CURDIR)/build/asan/nginx TEST_UMAMI_MODULE= \
	    TEST_NGINX_SLOW=4 $(PROVE) t/

test-versions: ## the tests with nginx 1.22, 1.26 and Debian unstable's
	@t/tools/need image
	@t/tools/versions

check: ## style, layers, documents against code, compiler warnings
	@t/tools/need build check
	@t/tools/check

fuzz: ## each fuzz target for FUZZ_TIME seconds (60)
	@t/tools/need build fuzz
	@t/tools/fuzz $${FUZZ_TIME:-60}

bench: ## speed next to plain nginx on this machine
	@t/tools/need build test umami-test bench
	@t/tools/build dynamic build
	@t/bench/bench
	@t/bench/preflight
	@t/bench/limit
	@t/bench/database
	@t/bench/profile

accuracy: ## how exactly two gateways with one Redis keep a limit
	@t/tools/need build test
	@t/tools/build dynamic build
	@t/bench/accuracy

image: ## the image localhost/umami-gateway:test, by podman or docker
	@t/tools/need image
	@t/image/up gateway

image-sbom: ## build/umami-gateway.spdx.json, what the image is made of
	@t/image/up sbom >build/umami-gateway.spdx.json

image-test: ## tests of the image, with podman
	@t/tools/need build test umami-run image
	@t/image/up images
	@prove -It/lib --timer t/image/

clean: ## remove what was built here, but not the cache outside
	rm -rf build
