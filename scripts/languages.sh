#!/usr/bin/env bash
# Generates the contract for Go as its users would, and builds the result. With no Go or no network
# it says so and leaves it.
set -euo pipefail
cd "$(dirname "$0")/.."

protobuf=v1.36.11 # protoc-gen-go, and the runtime that it writes for
plugin=v1.6.2     # protoc-gen-go-grpc
runtime=v1.78.0   # google.golang.org/grpc
tools=$PWD/.cache/go
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
export GOFLAGS=-modcacherw GOBIN=$tools

have_not() {
    echo "languages: $1; the contract is not built for Go"
    exit 0
}

command -v go >/dev/null || have_not "no Go on this machine"
[ -x "$tools/protoc-gen-go" ] ||
    go install "google.golang.org/protobuf/cmd/protoc-gen-go@$protobuf" || have_not "no protoc-gen-go"
[ -x "$tools/protoc-gen-go-grpc" ] ||
    go install "google.golang.org/grpc/cmd/protoc-gen-go-grpc@$plugin" || have_not "no protoc-gen-go-grpc"

python=.venv/bin/python
wellknown=$("$python" -c 'import grpc_tools, pathlib; print(pathlib.Path(grpc_tools.__file__).parent / "_proto")')
# Buf's own module of its rules comes from buf.build; they are generated here, so that Go's proxy is enough.
rules=Mbuf/validate/validate.proto=maitred.dev/gen/buf/validate
"$python" -m grpc_tools.protoc -Iprotos "-I$wellknown" \
    --plugin=protoc-gen-go="$tools/protoc-gen-go" --plugin=protoc-gen-go-grpc="$tools/protoc-gen-go-grpc" \
    --go_out="$out" --go_opt=module=maitred.dev/gen --go_opt="$rules" \
    --go-grpc_out="$out" --go-grpc_opt=module=maitred.dev/gen --go-grpc_opt="$rules" \
    buf/validate/validate.proto $(cd protos && ls maitred/v1/*.proto)

cat >"$out/go.mod" <<MOD
module maitred.dev/gen

go 1.24

require (
	google.golang.org/grpc $runtime
	google.golang.org/protobuf $protobuf
)
MOD
mkdir -p "$out/client"
cat >"$out/client/main.go" <<'GO'
// Adds an item, and reads why where that is refused.
package main

import (
	"context"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	maitredv1 "maitred.dev/gen/maitred/v1"
)

func main() {
	connection, err := grpc.NewClient("127.0.0.1:50051", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		panic(err)
	}
	defer connection.Close()
	request := &maitredv1.AddItemRequest{SessionId: "table-7", RequestId: "order-1", Item: "tea"}
	answer, err := maitredv1.NewOrderServiceClient(connection).AddItem(context.Background(), request)
	if err != nil {
		for _, detail := range status.Convert(err).Details() {
			if info, ok := detail.(*errdetails.ErrorInfo); ok {
				fmt.Println(info.Reason, info.Metadata)
			}
		}
		return
	}
	fmt.Println(answer.Line.Name, answer.Session.Version)
}
GO
cd "$out"
go mod tidy -e >"$tools/tidy.log" 2>&1 || have_not "the Go proxy does not answer"
go vet ./client ./maitred/... || exit 1
go build -o /dev/null ./client
echo "languages: the contract and a client build for Go"
