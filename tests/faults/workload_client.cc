// A client of the SPIFFE Workload API as anybody's: what protoc generates, and gRPC's own socket.
//
//   workload_client ADDRESS METHOD [REQUEST [METADATA]]
//
// REQUEST is the message as JSON, METADATA the value of workload.spiffe.io ("" for none). Each
// message that comes is a line of JSON, and the call's status is the last one. workload_client.py
// is the same in Python.
#include <google/protobuf/util/json_util.h>
#include <grpcpp/grpcpp.h>
#include <workload.grpc.pb.h>

#include <iostream>
#include <string>

namespace {

using Stub = SpiffeWorkloadAPI::Stub;

struct Arguments {
  std::string address, method, request = "{}", metadata = "true";
};

void print(const google::protobuf::Message &message) {
  std::string json;
  if (!google::protobuf::util::MessageToJsonString(message, &json).ok()) std::abort();
  std::cout << json << std::endl;
}

template <typename Request>
Request request_of(const Arguments &arguments) {
  Request request;
  if (!google::protobuf::util::JsonStringToMessage(arguments.request, &request).ok()) std::abort();
  return request;
}

template <typename Request, typename Response>
grpc::Status one(Stub &stub, grpc::ClientContext &context, const Arguments &arguments,
                 grpc::Status (Stub::*method)(grpc::ClientContext *, const Request &, Response *)) {
  Response response;
  const grpc::Status status = (stub.*method)(&context, request_of<Request>(arguments), &response);
  if (status.ok()) print(response);
  return status;
}

template <typename Request, typename Response>
grpc::Status stream(Stub &stub, grpc::ClientContext &context, const Arguments &arguments,
                    std::unique_ptr<grpc::ClientReader<Response>> (Stub::*method)(
                        grpc::ClientContext *, const Request &)) {
  const auto reader = (stub.*method)(&context, request_of<Request>(arguments));
  Response response;
  while (reader->Read(&response)) print(response);
  return reader->Finish();
}

grpc::Status call(Stub &stub, grpc::ClientContext &context, const Arguments &arguments) {
  const std::string &method = arguments.method;
  if (method == "FetchX509SVID") return stream(stub, context, arguments, &Stub::FetchX509SVID);
  if (method == "FetchX509Bundles") {
    return stream(stub, context, arguments, &Stub::FetchX509Bundles);
  }
  if (method == "FetchJWTSVID") return one(stub, context, arguments, &Stub::FetchJWTSVID);
  if (method == "FetchJWTBundles") return stream(stub, context, arguments, &Stub::FetchJWTBundles);
  if (method == "ValidateJWTSVID") return one(stub, context, arguments, &Stub::ValidateJWTSVID);
  return {grpc::StatusCode::UNIMPLEMENTED, "this client has no such method"};
}

}  // namespace

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  Arguments arguments{argv[1], argv[2]};
  if (argc > 3) arguments.request = argv[3];
  if (argc > 4) arguments.metadata = argv[4];
  const auto stub = SpiffeWorkloadAPI::NewStub(
      grpc::CreateChannel(arguments.address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  if (!arguments.metadata.empty()) context.AddMetadata("workload.spiffe.io", arguments.metadata);
  const grpc::Status status = call(*stub, context, arguments);
  google::protobuf::Struct last;
  (*last.mutable_fields())["status"].set_number_value(status.error_code());
  (*last.mutable_fields())["why"].set_string_value(status.error_message());
  print(last);
  return 0;
}
