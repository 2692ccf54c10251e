#include "identity/agent/workload_api.h"

#include <fcntl.h>
#include <openssl/pem.h>

#include <algorithm>

#include "api_server.h"
#include "child.h"
#include "identity/agent/seats.h"

using namespace inlay;
using namespace inlay::identity;
using namespace inlay::identity::agent;
using namespace inlay::identity::agent::testing;
using inlay::testing::Identity;
using inlay::testing::issue;
using inlay::testing::make_authority;

namespace {

using SvidStream = std::unique_ptr<grpc::ClientReader<X509SVIDResponse>>;

PkeyPtr key_of(const X509SVID &svid) {
  const auto *position = reinterpret_cast<const unsigned char *>(svid.x509_svid_key().data());
  const std::unique_ptr<PKCS8_PRIV_KEY_INFO, OpensslDelete<PKCS8_PRIV_KEY_INFO_free>> info(
      d2i_PKCS8_PRIV_KEY_INFO(nullptr, &position, static_cast<long>(svid.x509_svid_key().size())));
  return PkeyPtr(info ? EVP_PKCS82PKEY(info.get()) : nullptr);
}

grpc::Status status_of(const SvidStream &stream) {
  X509SVIDResponse none;
  CHECK(!stream->Read(&none));
  return stream->Finish();
}

}  // namespace

TEST_CASE("a process gets its SVID with key and bundle, and the stream stays open") {
  ApiServer server;
  View view = server.view();
  const Identity other = make_authority("other.example");
  view.trust.bundles["other.example"].x509_authorities = {
      der_of(other.certificate.get()), der_of(server.authority.certificate.get())};
  view.trust.bundles["revoked.example"].x509_authorities = {};
  view.trust.crls = {"a CRL", "another"};
  server.set(view);
  server.permit(Permitted{id_of(kWeb), "internal"});

  const auto client = server.client();
  ClientCall call;
  const SvidStream stream = client->FetchX509SVID(&call.context, {});
  X509SVIDResponse response;
  REQUIRE(stream->Read(&response));
  REQUIRE(response.svids_size() == 1);
  const X509SVID &svid = response.svids(0);
  CHECK(svid.spiffe_id() == kWeb);
  CHECK(svid.hint() == "internal");
  const HeldSvid &held = *view.identities.at(kWeb).current;
  CHECK(svid.x509_svid() == held.chain[0]);
  CHECK(svid.bundle() == der_of(server.authority.certificate.get()));
  const PkeyPtr key = key_of(svid);
  REQUIRE(key);
  CHECK(EVP_PKEY_eq(key.get(), held.svid.key.get()) == 1);
  REQUIRE(response.crl_size() == 2);
  CHECK(response.crl(1) == "another");
  // One whose authorities are all gone is as good as absent, and a client would choke on it.
  REQUIRE(response.federated_bundles().size() == 1);
  CHECK(response.federated_bundles().at("spiffe://other.example") ==
        der_of(other.certificate.get()) + der_of(server.authority.certificate.get()));
  CHECK(server.events() == std::vector<std::string>{"FetchX509SVID OK " + std::string(kWeb)});

  call.context.TryCancel();
  CHECK(stream->Finish().error_code() == grpc::StatusCode::CANCELLED);
}

TEST_CASE("the intermediates follow the leaf") {
  ApiServer server;
  const Identity intermediate = inlay::testing::make_intermediate(server.authority, "example.org");
  View view = server.view();
  view.identities[kWeb] = held(issue(intermediate, kWeb));
  server.set(view);
  const auto client = server.client();
  ClientCall call;
  const SvidStream stream = client->FetchX509SVID(&call.context, {});
  X509SVIDResponse response;
  REQUIRE(stream->Read(&response));
  const auto &chain = view.identities.at(kWeb).current->chain;
  REQUIRE(chain.size() == 2);
  CHECK(response.svids(0).x509_svid() == chain[0] + chain[1]);
}

TEST_CASE("without the metadata, or with it wrong, nothing is given (T72)") {
  ApiServer server;
  const auto client = server.client();
  for (const std::vector<std::string> &values :
       {std::vector<std::string>{}, {"True"}, {"false"}, {""}, {"true", "false"}}) {
    const auto with = [&](grpc::ClientContext &context) {
      for (const std::string &value : values) context.AddMetadata("workload.spiffe.io", value);
    };
    const auto expect = [](const grpc::Status &status) {
      CHECK(status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
      CHECK(status.error_message() == "the metadata \"workload.spiffe.io: true\" is missing");
    };
    grpc::ClientContext contexts[5];
    for (auto &context : contexts) with(context);
    expect(status_of(client->FetchX509SVID(&contexts[0], {})));
    X509BundlesResponse bundles;
    const auto x509 = client->FetchX509Bundles(&contexts[1], {});
    CHECK(!x509->Read(&bundles));
    expect(x509->Finish());
    JWTBundlesResponse jwt_bundles;
    const auto jwt = client->FetchJWTBundles(&contexts[2], {});
    CHECK(!jwt->Read(&jwt_bundles));
    expect(jwt->Finish());
    JWTSVIDRequest request;
    request.add_audience("a");
    JWTSVIDResponse response;
    expect(client->FetchJWTSVID(&contexts[3], request, &response));
    ValidateJWTSVIDRequest validate;
    validate.set_audience("a");
    validate.set_svid("b");
    ValidateJWTSVIDResponse validated;
    expect(client->ValidateJWTSVID(&contexts[4], validate, &validated));
  }
}

TEST_CASE("who has no entry, or no SVID yet, is told so by the standard's codes") {
  ApiServer server;
  const auto client = server.client();
  const auto attempt = [&] {
    ClientCall call;
    return status_of(client->FetchX509SVID(&call.context, {}));
  };

  server.forbid(AgentRefusal::no_entry, "no entry matches this process");
  grpc::Status status = attempt();
  CHECK(status.error_code() == grpc::StatusCode::PERMISSION_DENIED);
  CHECK(status.error_message() == "no entry matches this process");
  CHECK(server.events().back() == "FetchX509SVID PERMISSION_DENIED: no entry matches this process");

  server.forbid(AgentRefusal::rate_limited, "too many requests");
  CHECK(attempt().error_code() == grpc::StatusCode::UNAVAILABLE);

  server.permit(Permitted{id_of(kWeb), ""});
  const View good = server.view();
  View view = good;
  view.identities.clear();
  server.set(view);
  status = attempt();
  CHECK(status.error_code() == grpc::StatusCode::UNAVAILABLE);
  CHECK(status.error_message() == "there is no valid SVID for spiffe://example.org/web now");

  view = good;
  view.trust.bundles.clear();
  view.trust_error = "the authority's folder is gone";
  server.set(view);
  status = attempt();
  CHECK(status.error_code() == grpc::StatusCode::UNAVAILABLE);
  CHECK(status.error_message() ==
        "there is no trust bundle of example.org yet: the authority's folder is gone");
}

TEST_CASE("each change is pushed whole, and what is no change is not pushed") {
  ApiServer server;
  const auto client = server.client();
  ClientCall svid_call;
  const SvidStream svids = client->FetchX509SVID(&svid_call.context, {});
  X509SVIDResponse first;
  REQUIRE(svids->Read(&first));
  ClientCall bundle_call;
  const auto bundles = client->FetchX509Bundles(&bundle_call.context, {});
  X509BundlesResponse first_bundles;
  REQUIRE(bundles->Read(&first_bundles));
  CHECK(first_bundles.bundles().size() == 1);

  // Another's rotation is no news to this one.
  View view = server.view();
  view.identities["spiffe://example.org/db"] =
      held(issue(server.authority, "spiffe://example.org/db"));
  server.set(view);
  view.identities[kWeb] = held(issue(server.authority, kWeb));
  server.set(view);
  X509SVIDResponse second;
  REQUIRE(svids->Read(&second));
  CHECK(second.svids(0).x509_svid() == view.identities[kWeb].current->chain[0]);
  CHECK(second.svids(0).x509_svid() != first.svids(0).x509_svid());

  view.trust.bundles["other.example"].x509_authorities = {"other's"};
  view.trust.crls = {"revoked"};
  server.set(view);
  X509BundlesResponse second_bundles;
  REQUIRE(bundles->Read(&second_bundles));
  CHECK(second_bundles.bundles().size() == 2);
  CHECK(second_bundles.bundles().at("spiffe://other.example") == "other's");
  REQUIRE(second_bundles.crl_size() == 1);
  X509SVIDResponse third;
  REQUIRE(svids->Read(&third));
  CHECK(third.federated_bundles().size() == 1);
  CHECK(third.svids(0).x509_svid() == second.svids(0).x509_svid());

  view.trust.bundles.erase("other.example");
  view.trust.crls.clear();
  server.set(view);
  REQUIRE(svids->Read(&third));
  CHECK(third.federated_bundles().empty());
  CHECK(third.crl_size() == 0);
}

TEST_CASE("a process that is no longer what it was gets no newer key") {
  ApiServer server;
  const auto client = server.client();
  ClientCall call;
  const SvidStream stream = client->FetchX509SVID(&call.context, {});
  X509SVIDResponse response;
  REQUIRE(stream->Read(&response));
  server.forbid(AgentRefusal::no_entry, "no entry matches this process");
  CHECK(status_of(stream).error_code() == grpc::StatusCode::PERMISSION_DENIED);
}

TEST_CASE("an SVID that expired ends its streams") {
  ApiServer server;
  const auto client = server.client();
  ClientCall call;
  const SvidStream stream = client->FetchX509SVID(&call.context, {});
  X509SVIDResponse response;
  REQUIRE(stream->Read(&response));
  View view = server.view();
  view.identities[kWeb].current = nullptr;
  view.identities[kWeb].error = "the authority is gone";
  server.set(view);
  const grpc::Status status = status_of(stream);
  CHECK(status.error_code() == grpc::StatusCode::UNAVAILABLE);
  CHECK(status.error_message() ==
        "there is no valid SVID for spiffe://example.org/web now: the authority is gone");
}

TEST_CASE("JWT-SVIDs are given for the process's own ID and validated for whoever has one") {
  ApiServer server;
  View view = server.view();
  view.trust.bundles["example.org"].jwt_authorities[jwt_key_id(server.jwt_key.get())] =
      public_key_der(server.jwt_key.get());
  server.set(view);
  const auto client = server.client();

  JWTSVIDRequest request;
  request.add_audience("spiffe://example.org/db");
  request.add_audience("https://example.com");
  JWTSVIDResponse response;
  ClientCall fetch;
  REQUIRE(client->FetchJWTSVID(&fetch.context, request, &response).ok());
  REQUIRE(response.svids_size() == 1);
  CHECK(response.svids(0).spiffe_id() == kWeb);

  ValidateJWTSVIDRequest validate;
  validate.set_audience("https://example.com");
  validate.set_svid(response.svids(0).svid());
  ValidateJWTSVIDResponse validated;
  ClientCall good;
  REQUIRE(client->ValidateJWTSVID(&good.context, validate, &validated).ok());
  CHECK(validated.spiffe_id() == kWeb);
  const auto &claims = validated.claims().fields();
  CHECK(claims.at("sub").string_value() == kWeb);
  REQUIRE(claims.at("aud").list_value().values_size() == 2);
  CHECK(claims.at("exp").number_value() > static_cast<double>(inlay::testing::now()));

  validate.set_audience("https://elsewhere.example");
  ClientCall elsewhere;
  const grpc::Status refused = client->ValidateJWTSVID(&elsewhere.context, validate, &validated);
  CHECK(refused.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(!refused.error_message().empty());

  ClientCall bundle_call;
  const auto bundles = client->FetchJWTBundles(&bundle_call.context, {});
  JWTBundlesResponse sets;
  REQUIRE(bundles->Read(&sets));
  const auto keys = parse_jwt_authorities(sets.bundles().at("spiffe://example.org"));
  REQUIRE(keys);
  CHECK(*keys == view.trust.bundles["example.org"].jwt_authorities);
}

TEST_CASE("a JWT-SVID for another's ID, or for nobody, is refused") {
  ApiServer server;
  const auto client = server.client();
  const auto attempt = [&](const JWTSVIDRequest &request) {
    ClientCall call;
    JWTSVIDResponse response;
    const grpc::Status status = client->FetchJWTSVID(&call.context, request, &response);
    CHECK(response.svids_size() == 0);
    return status.error_code();
  };
  JWTSVIDRequest request;
  CHECK(attempt(request) == grpc::StatusCode::INVALID_ARGUMENT);
  request.add_audience("");
  CHECK(attempt(request) == grpc::StatusCode::INVALID_ARGUMENT);
  request.set_audience(0, "a");
  for (const char *const id : {"spiffe://example.org/db", "spiffe://example.org/", "nonsense"}) {
    request.set_spiffe_id(id);
    CHECK(attempt(request) == grpc::StatusCode::PERMISSION_DENIED);
  }
  server.forbid(AgentRefusal::no_entry, "no entry matches this process");
  request.clear_spiffe_id();
  CHECK(attempt(request) == grpc::StatusCode::PERMISSION_DENIED);
}

TEST_CASE("calls and connections of a user are bounded") {
  ApiServer server({.connections = 8, .connections_of_a_user = 3, .calls_of_a_user = 2});
  const auto client = server.client();
  ClientCall calls[3];
  std::vector<SvidStream> streams;
  X509SVIDResponse response;
  for (int number = 0; number < 2; ++number) {
    streams.push_back(client->FetchX509SVID(&calls[number].context, {}));
    REQUIRE(streams.back()->Read(&response));
  }
  const grpc::Status status = status_of(client->FetchX509SVID(&calls[2].context, {}));
  CHECK(status.error_code() == grpc::StatusCode::UNAVAILABLE);
  CHECK(status.error_message() == "this user has too many calls open");

  const int second = server.connect();
  const int third = server.connect();
  CHECK(second >= 0);
  CHECK(third >= 0);
  CHECK(server.connect() == -1);
  CHECK(server.events().back() ==
        std::to_string(getuid()) + " cut off: too many connections to the Workload API");
  // One that the peer closes makes room, when gRPC has noticed.
  close(second);
  int fourth = -1;
  while (fourth < 0) fourth = server.connect();
  close(third);
  close(fourth);
}

TEST_CASE("where all connections are taken, the user with the most loses his newest one") {
  ApiServer server({.connections = 4, .connections_of_a_user = 3});
  std::vector<int> open;
  for (const uid_t user : {2001u, 2001u, 2002u}) open.push_back(server.connect(user));
  const int newest = server.connect(2001);
  open.push_back(server.connect(2003));
  CHECK(std::ranges::find(open, -1) == open.end());
  // gRPC's SETTINGS may be there already, or not.
  const auto after_what_came = [](int fd, int flags) {
    char bytes[256];
    ssize_t got = 0;
    do {
      got = recv(fd, bytes, sizeof bytes, flags);
    } while (got > 0);
    return got;
  };
  CHECK(after_what_came(newest, 0) == 0);
  CHECK(server.events() ==
        std::vector<std::string>{
            "2001 cut off: its user has the most connections to the Workload API"});
  CHECK(server.connect(2001) == -1);  // who has the most makes no room for himself
  for (const int fd : open) {
    CHECK(after_what_came(fd, MSG_DONTWAIT) == -1);
    close(fd);
  }
  close(newest);
}

TEST_CASE("few descriptors make few connections, and fit beside the seats") {
  for (const std::size_t descriptors : {256u, 1024u, 4096u, 1u << 20}) {
    const auto limits = WorkloadApiLimits::of(descriptors);
    const auto seats = SeatLimits::of(descriptors);
    CAPTURE(descriptors);
    CHECK(limits.connections * 4 + seats.attached * 2 + seats.waiting < descriptors - 64);
    CHECK(limits.connections_of_a_user < limits.connections);
  }
  CHECK(WorkloadApiLimits::of(1u << 20).connections == WorkloadApiLimits().connections);
}

TEST_CASE("T62 calls of a user have a rate") {
  ApiServer server({.calls_a_second = 1});
  const auto client = server.client();
  const auto validate = [&] {
    ClientCall call;
    ValidateJWTSVIDRequest request;
    ValidateJWTSVIDResponse response;
    return client->ValidateJWTSVID(&call.context, request, &response);
  };
  grpc::Status status = validate();
  CHECK(status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  while (status.error_code() == grpc::StatusCode::INVALID_ARGUMENT) status = validate();
  CHECK(status.error_code() == grpc::StatusCode::UNAVAILABLE);
  CHECK(status.error_message() == "this user has made too many calls");
}

TEST_CASE("a caller that does not read gets the newest state when it does") {
  ApiServer server;
  const auto client = server.client();
  ClientCall call;
  const SvidStream stream = client->FetchX509SVID(&call.context, {});
  View view = server.view();
  for (int rotation = 0; rotation < 300; ++rotation) {
    view.trust.crls = {std::string(8192, 'c') + std::to_string(rotation)};
    server.set(view);
  }
  X509SVIDResponse response;
  do {
    REQUIRE(stream->Read(&response));
  } while (response.crl_size() == 0 || response.crl(0) != view.trust.crls[0]);
}

TEST_CASE("clients that vanish leave nothing behind") {
  ApiServer server({.connections_of_a_user = 4, .calls_of_a_user = 4});
  for (int served = 0; served < 20;) {
    const int fd = server.connect();
    if (fd < 0) continue;  // gRPC has not noticed yet that the ones before are gone
    const auto client = SpiffeWorkloadAPI::NewStub(grpc::CreateInsecureChannelFromFd("agent", fd));
    ClientCall call;
    const SvidStream stream = client->FetchX509SVID(&call.context, {});
    X509SVIDResponse response;
    if (stream->Read(&response)) ++served;
    shutdown(fd, SHUT_RDWR);
    stream->Finish();
  }
}

TEST_CASE("a flood of requests that never end is cut off, and others are served") {
  ApiServer server;
  const int fd = server.connect();
  fcntl(fd, F_SETFL, 0);
  const auto send_all = [&](const std::string &bytes) {
    return send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
  };
  REQUIRE(send_all("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + std::string("\0\0\0\4\0\0\0\0\0", 9)));
  // HEADERS with END_HEADERS and an indexed ":method: POST", never END_STREAM; no SETTINGS is read.
  bool open = true;
  for (unsigned stream = 1; open && stream < 2'000'000; stream += 2) {
    std::string head("\0\0\1\1\4\0", 6);
    head += {static_cast<char>(stream >> 16), static_cast<char>(stream >> 8 & 0xff),
             static_cast<char>(stream & 0xff)};
    open = send_all(head + "\x83");
  }
  CHECK(!open);
  CHECK(server.events() ==
        std::vector<std::string>{std::to_string(getuid()) +
                                 " cut off: more streams or bytes than a client of the "
                                 "Workload API needs"});
  close(fd);

  const auto client = server.client();
  ClientCall call;
  const SvidStream stream = client->FetchX509SVID(&call.context, {});
  X509SVIDResponse response;
  CHECK(stream->Read(&response));
}
