package main

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	reflection "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// asker asks the server about its own schema; nothing of it is compiled in.
type asker struct {
	stream reflection.ServerReflection_ServerReflectionInfoClient
}

func newAsker(ctx context.Context, connection *grpc.ClientConn) (*asker, error) {
	stream, err := reflection.NewServerReflectionClient(connection).ServerReflectionInfo(ctx)
	return &asker{stream}, err
}

func (a *asker) ask(request *reflection.ServerReflectionRequest) (*reflection.ServerReflectionResponse, error) {
	if err := a.stream.Send(request); err != nil {
		return nil, err
	}
	answer, err := a.stream.Recv()
	if err != nil {
		return nil, err
	}
	if refused := answer.GetErrorResponse(); refused != nil {
		return nil, fmt.Errorf("reflection: %d %s", refused.ErrorCode, refused.ErrorMessage)
	}
	return answer, nil
}

func (a *asker) services() ([]string, error) {
	answer, err := a.ask(&reflection.ServerReflectionRequest{
		MessageRequest: &reflection.ServerReflectionRequest_ListServices{},
	})
	if err != nil {
		return nil, err
	}
	names := []string{}
	for _, service := range answer.GetListServicesResponse().GetService() {
		names = append(names, service.Name)
	}
	return names, nil
}

// method finds the method's description, with every file that it takes to understand it.
func (a *asker) method(service, name string) (protoreflect.MethodDescriptor, error) {
	answer, err := a.ask(&reflection.ServerReflectionRequest{
		MessageRequest: &reflection.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: service},
	})
	if err != nil {
		return nil, err
	}
	set, seen := &descriptorpb.FileDescriptorSet{}, map[string]bool{}
	if err := a.collect(answer, set, seen); err != nil {
		return nil, err
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		return nil, err
	}
	found, err := files.FindDescriptorByName(protoreflect.FullName(service + "." + name))
	if err != nil {
		return nil, err
	}
	return found.(protoreflect.MethodDescriptor), nil
}

func (a *asker) collect(answer *reflection.ServerReflectionResponse, set *descriptorpb.FileDescriptorSet, seen map[string]bool) error {
	for _, text := range answer.GetFileDescriptorResponse().GetFileDescriptorProto() {
		file := &descriptorpb.FileDescriptorProto{}
		if err := proto.Unmarshal(text, file); err != nil {
			return err
		}
		if seen[file.GetName()] {
			continue
		}
		seen[file.GetName()] = true
		set.File = append(set.File, file)
		for _, needed := range file.Dependency {
			if seen[needed] {
				continue
			}
			more, err := a.ask(&reflection.ServerReflectionRequest{
				MessageRequest: &reflection.ServerReflectionRequest_FileByFilename{FileByFilename: needed},
			})
			if err != nil {
				return err
			}
			if err := a.collect(more, set, seen); err != nil {
				return err
			}
		}
	}
	return nil
}
