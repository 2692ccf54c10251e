"""A client of the SPIFFE Workload API in Python: workload_client.cc says how it is called.

The messages are what protoc made of workload.proto, at PYTHONPATH.
"""

import json
import sys

import grpc
import workload_pb2
from google.protobuf import json_format

METHODS = {  # name: request, response, whether it is a stream
    "FetchX509SVID": ("X509SVIDRequest", "X509SVIDResponse", True),
    "FetchX509Bundles": ("X509BundlesRequest", "X509BundlesResponse", True),
    "FetchJWTSVID": ("JWTSVIDRequest", "JWTSVIDResponse", False),
    "FetchJWTBundles": ("JWTBundlesRequest", "JWTBundlesResponse", True),
    "ValidateJWTSVID": ("ValidateJWTSVIDRequest", "ValidateJWTSVIDResponse", False),
}


def say(what):
    print(json.dumps(what), flush=True)


def main(address, name, request="{}", metadata="true"):
    of_request, of_response, stream = METHODS[name]
    channel = grpc.insecure_channel(address)
    method = (channel.unary_stream if stream else channel.unary_unary)(
        f"/SpiffeWorkloadAPI/{name}",
        request_serializer=getattr(workload_pb2, of_request).SerializeToString,
        response_deserializer=getattr(workload_pb2, of_response).FromString)
    message = json_format.Parse(request, getattr(workload_pb2, of_request)())
    status, why = 0, ""
    try:
        answer = method(message, metadata=[("workload.spiffe.io", metadata)] if metadata else [])
        for response in answer if stream else [answer]:
            say(json_format.MessageToDict(response))
    except grpc.RpcError as error:
        status, why = error.code().value[0], error.details()
    say({"status": status, "why": why})


main(*sys.argv[1:])
