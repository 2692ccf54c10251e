#include "identity/agent/api_service.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <ctime>
#include <exception>
#include <utility>

#include "identity/jwt_svid.h"

namespace inlay::identity::agent {
namespace {

ApiMessage make_x509_svid(const View &view, const Permitted &permitted) {
  return x509_svid_message(view, permitted.id, permitted.hint);
}
ApiMessage make_x509_bundles(const View &view, const Permitted &permitted) {
  return x509_bundles_message(view, permitted.id);
}
ApiMessage make_jwt_bundles(const View &view, const Permitted &permitted) {
  return jwt_bundles_message(view, permitted.id);
}

}  // namespace

void ApiService::refresh_streams() {
  std::vector<std::shared_ptr<ApiStream>> open;
  {
    const std::lock_guard lock(mutex_);
    for (const auto &stream : streams_) {
      if (auto still = stream.lock()) open.push_back(std::move(still));
    }
  }
  for (const auto &stream : open) stream->refresh();
}

ApiService::Stream *ApiService::open(const Context &context, std::string_view method,
                                     ApiStream::Make make) {
  auto call = ApiCall::begin(shared_, context, method);
  if (!call) return refused_stream(call.error());
  const auto stream = ApiStream::open(std::move(*call), make);
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(streams_, [](const auto &other) { return other.expired(); });
    streams_.push_back(stream);
  }
  // Only now: a change between this look and the list would be missed the other way round.
  stream->refresh();
  return stream.get();
}

ApiService::Stream *ApiService::FetchX509SVID(Context *context, const grpc::ByteBuffer *) {
  return open(*context, "FetchX509SVID", make_x509_svid);
}

ApiService::Stream *ApiService::FetchX509Bundles(Context *context, const grpc::ByteBuffer *) {
  return open(*context, "FetchX509Bundles", make_x509_bundles);
}

ApiService::Stream *ApiService::FetchJWTBundles(Context *context, const grpc::ByteBuffer *) {
  return open(*context, "FetchJWTBundles", make_jwt_bundles);
}

grpc::ServerUnaryReactor *ApiService::FetchJWTSVID(Context *context, const JWTSVIDRequest *request,
                                                   JWTSVIDResponse *response) {
  grpc::ServerUnaryReactor *const reactor = context->DefaultReactor();
  auto call = ApiCall::begin(shared_, *context, "FetchJWTSVID");
  if (!call) {
    reactor->Finish(call.error());
    return reactor;
  }
  // Shared, since what a function object holds must be copyable.
  const auto held = std::make_shared<const ApiCall>(std::move(*call));
  try {
    shared_.waiting().give(held->caller().uid, [this, held, request, response, reactor] {
      reactor->Finish(fetch_jwt_svid(*held, *request, *response));
    });
  } catch (const std::exception &) {  // no thread, no memory
    reactor->Finish(
        held->refuse(grpc::StatusCode::UNAVAILABLE, "the agent has no room for it; try again"));
  }
  return reactor;
}

grpc::Status ApiService::fetch_jwt_svid(const ApiCall &call, const JWTSVIDRequest &request,
                                        JWTSVIDResponse &response) const {
  const std::vector<std::string> audience(request.audience().begin(), request.audience().end());
  if (audience.empty() || std::ranges::count(audience, std::string()) != 0) {
    return call.refuse(grpc::StatusCode::INVALID_ARGUMENT, "the audience is missing or empty");
  }
  const auto permitted = call.attest();
  if (!permitted) return permitted.error();
  const std::string &id = permitted->id.uri();
  if (!request.spiffe_id().empty() && request.spiffe_id() != id) {
    return call.refuse(grpc::StatusCode::PERMISSION_DENIED,
                       "this process does not have the SPIFFE ID that it asks for", id);
  }
  auto jwt = call.host().obtain_jwt(permitted->id, audience);
  if (!jwt) return call.refuse(grpc::StatusCode::UNAVAILABLE, jwt.error().message, id);
  JWTSVID &svid = *response.add_svids();
  svid.set_spiffe_id(id);
  svid.set_svid(std::move(jwt->token));
  svid.set_hint(permitted->hint);
  call.given(id);
  return grpc::Status::OK;
}

grpc::ServerUnaryReactor *ApiService::ValidateJWTSVID(Context *context,
                                                      const ValidateJWTSVIDRequest *request,
                                                      ValidateJWTSVIDResponse *response) {
  grpc::ServerUnaryReactor *const reactor = context->DefaultReactor();
  const auto call = ApiCall::begin(shared_, *context, "ValidateJWTSVID");
  reactor->Finish(call ? validate_jwt_svid(*call, *request, *response) : call.error());
  return reactor;
}

grpc::Status ApiService::validate_jwt_svid(const ApiCall &call,
                                           const ValidateJWTSVIDRequest &request,
                                           ValidateJWTSVIDResponse &response) const {
  if (request.audience().empty() || request.svid().empty()) {
    return call.refuse(grpc::StatusCode::INVALID_ARGUMENT, "the audience or the token is missing");
  }
  const auto permitted = call.attest();
  if (!permitted) return permitted.error();
  const std::string &id = permitted->id.uri();
  const auto view = call.host().view();
  const auto authorities = [&](std::string_view trust_domain) -> const JwtAuthorities * {
    const auto found = view->trust.bundles.find(trust_domain);
    return found == view->trust.bundles.end() ? nullptr : &found->second.jwt_authorities;
  };
  const auto claims = identity::validate_jwt_svid(request.svid(), request.audience(), authorities,
                                                  std::time(nullptr));
  if (!claims) {
    const JwtFailure &failure = claims.error();
    return call.refuse(grpc::StatusCode::INVALID_ARGUMENT,
                       std::string(sentence(failure.error)) +
                           (failure.detail.empty() ? "" : ": " + failure.detail),
                       id);
  }
  response.set_spiffe_id(claims->subject.uri());
  if (!google::protobuf::util::JsonStringToMessage(claims->json, response.mutable_claims()).ok()) {
    return call.refuse(grpc::StatusCode::INVALID_ARGUMENT,
                       "its claims cannot be written as google.protobuf.Struct", id);
  }
  call.given(id);
  return grpc::Status::OK;
}

}  // namespace inlay::identity::agent
