#include "identity/agent/metrics.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>

#include "identities_setup.h"
#include "identity/agent/metrics_server.h"

using namespace inlay::identity;
using namespace inlay::identity::agent;
using namespace inlay::identity::agent::testing;

namespace {

bool has_line(const std::string &text, const std::string &line) {
  return ("\n" + text).find("\n" + line + "\n") != std::string::npos;
}

int connect_to(const std::string &address) {
  int fd = -1;
  if (address.starts_with("unix://")) {
    sockaddr_un path{};
    path.sun_family = AF_UNIX;
    std::strcpy(path.sun_path, address.c_str() + 7);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    REQUIRE(connect(fd, reinterpret_cast<sockaddr *>(&path), sizeof path) == 0);
    return fd;
  }
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  at.sin_port =
      htons(static_cast<std::uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
  fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  REQUIRE(connect(fd, reinterpret_cast<sockaddr *>(&at), sizeof at) == 0);
  return fd;
}

// All that comes back until the server hangs up.
std::string scrape(const std::string &address, const std::string &request) {
  const int fd = connect_to(address);
  send(fd, request.data(), request.size(), MSG_NOSIGNAL);
  std::string answer;
  char buffer[4096];
  for (ssize_t got; (got = recv(fd, buffer, sizeof buffer, 0)) > 0;) {
    answer.append(buffer, static_cast<std::size_t>(got));
  }
  close(fd);
  return answer;
}

const std::string kGet = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";

}  // namespace

TEST_CASE("metrics: every name of the contract, with what is true now") {
  Setup setup({id("web"), id("db")});
  Counters counters;
  counters.signatures = 7;
  counters.attached = 3;
  counters.refused(AgentRefusal::no_entry);
  counters.refused(AgentRefusal::no_entry);
  setup.folder.put("crl.pem", make_crl(setup.folder.read("ca.pem"), setup.folder.read("ca-key.pem"),
                                       nullptr, 2000000000));
  setup.news();
  setup.identities->renew();
  const std::string text = metrics_text(*setup.identities->view(), counters, "files \"a\\b\"\n");
  CAPTURE(text);
  const std::string expiry = std::to_string(setup.state().current->svid.not_after);
  for (const std::string &line : {
           std::string("inlay_build_info{version=\"") + INLAY_VERSION + "\"} 1",
           std::string("inlay_source_up{source=\"files \\\"a\\\\b\\\"\\n\"} 1"),
           "inlay_svid_expiry_timestamp_seconds{spiffe_id=\"spiffe://example.org/web\"} " + expiry,
           std::string("inlay_svid_up{spiffe_id=\"spiffe://example.org/db\"} 1"),
           std::string("inlay_svid_rotations_total{spiffe_id=\"spiffe://example.org/web\"} 0"),
           std::string("inlay_signatures_total 7"),
           std::string("inlay_jwt_svids_total 0"),
           std::string("inlay_refusals_total{reason=\"no-entry\"} 2"),
           std::string("inlay_refusals_total{reason=\"rate-limited\"} 0"),
           std::string("inlay_attached_processes 3"),
           std::string("inlay_lost_log_lines_total 0"),
           std::string("# TYPE inlay_bundle_authority_expiry_timestamp_seconds gauge"),
       }) {
    CAPTURE(line);
    CHECK(has_line(text, line));
  }
  CHECK(
      text.find("\ninlay_bundle_authority_expiry_timestamp_seconds{trust_domain=\"example.org\"") !=
      std::string::npos);
  CHECK(text.find("\"} 2000000000\n") != std::string::npos);
  CHECK(text.back() == '\n');
}

TEST_CASE("metrics: an SVID that is gone has no expiry, and is down; the source too") {
  Setup setup;
  setup.by.outage = "down";
  setup.live(3700);
  const std::string text = metrics_text(*setup.identities->view(), Counters{}, "s");
  CHECK(has_line(text, "inlay_svid_up{spiffe_id=\"spiffe://example.org/web\"} 0"));
  CHECK(has_line(text, "inlay_source_up{source=\"s\"} 0"));
  CHECK(text.find("\ninlay_svid_expiry_timestamp_seconds{") == std::string::npos);
}

TEST_CASE("metrics: a certificate that a bundle has twice is one sample") {
  Setup setup;
  setup.folder.put("bundle.pem", setup.folder.read("bundle.pem") + setup.folder.read("bundle.pem"));
  setup.news();
  setup.identities->renew();
  const std::string text = metrics_text(*setup.identities->view(), Counters{}, "s");
  const std::string name = "\ninlay_bundle_authority_expiry_timestamp_seconds{";
  CHECK(text.find(name) != std::string::npos);
  CHECK(text.find(name) == text.rfind(name));
}

TEST_CASE("metrics are served on a Unix socket and on loopback: GET /metrics and nothing else") {
  const AuthorityFolder folder;
  for (const std::string &listen :
       {"unix://" + folder.at("metrics.sock"), std::string("127.0.0.1:0")}) {
    CAPTURE(listen);
    const auto server = MetricsServer::start(listen, [] { return std::string("a 1\n"); });
    REQUIRE_MESSAGE(server, (server ? "" : server.error()));
    const std::string at = (*server)->address();
    const std::string good = scrape(at, kGet);
    CHECK(good.starts_with("HTTP/1.1 200 OK\r\n"));
    CHECK(good.find("Content-Type: text/plain; version=0.0.4") != std::string::npos);
    CHECK(good.ends_with("\r\n\r\na 1\n"));
    CHECK(scrape(at, "GET /metrics?x=y HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 200"));
    CHECK(scrape(at, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
    CHECK(scrape(at, "GET /metricsx HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
    CHECK(scrape(at, "POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
    CHECK(scrape(at, "\x16\x03\x01\r\n\r\n").starts_with("HTTP/1.1 400"));
    CHECK(scrape(at, "GET /metrics\r\n\r\n").starts_with("HTTP/1.1 400"));
    const std::string long_line = "GET /metrics HTTP/1.1\r\nA: " + std::string(4095, 'a');
    CHECK(scrape(at, long_line).starts_with("HTTP/1.1 431"));
  }
  CHECK_FALSE(std::filesystem::exists(folder.at("metrics.sock")));
}

TEST_CASE("metrics: connections that ask nothing make room for one that does") {
  const auto server = MetricsServer::start("127.0.0.1:0", [] { return std::string("a 1\n"); });
  REQUIRE(server);
  std::vector<int> idle;
  for (int connection = 0; connection < 40; ++connection) {
    idle.push_back(connect_to((*server)->address()));
  }
  CHECK(scrape((*server)->address(), kGet).ends_with("a 1\n"));
  // The first was closed for it.
  char byte;
  CHECK(recv(idle.front(), &byte, 1, 0) == 0);
  for (const int fd : idle) close(fd);
}

TEST_CASE("metrics: a socket left behind is replaced, one in use is not, nor is a file") {
  const AuthorityFolder folder;
  const std::string listen = "unix://" + folder.at("metrics.sock");
  const auto text = [] { return std::string("a 1\n"); };
  {
    sockaddr_un path{};
    path.sun_family = AF_UNIX;
    std::strcpy(path.sun_path, folder.at("metrics.sock").c_str());
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    REQUIRE(bind(fd, reinterpret_cast<sockaddr *>(&path), sizeof path) == 0);
    close(fd);
  }
  const auto server = MetricsServer::start(listen, text);
  REQUIRE(server);
  struct stat status {};
  REQUIRE(stat(folder.at("metrics.sock").c_str(), &status) == 0);
  CHECK((status.st_mode & 0007) == 0);
  const auto second = MetricsServer::start(listen, text);
  REQUIRE_FALSE(second);
  CHECK(second.error().find("in use") != std::string::npos);
  CHECK(scrape(listen, kGet).ends_with("a 1\n"));
  folder.put("file", "mine");
  CHECK_FALSE(MetricsServer::start("unix://" + folder.at("file"), text));
  CHECK(folder.read("file") == "mine");
}

TEST_CASE("metrics: only a Unix socket or loopback is an address") {
  for (const char *good : {"unix:///run/inlay/metrics.sock", "127.0.0.1:9464", "127.1.2.3:1",
                           "[::1]:9464", "127.0.0.1:0"}) {
    CAPTURE(good);
    CHECK(listen_address_complaint(good).empty());
  }
  for (const char *bad : {"", "unix://", "unix://run/a", "0.0.0.0:9464", "10.0.0.1:9464", "[::]:1",
                          "[::ffff:127.0.0.1]:1", "localhost:9464", "127.0.0.1",
                          "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:1x",
                          "::1:9464", ":9464", "/run/inlay/metrics.sock", "tcp://127.0.0.1:1"}) {
    CAPTURE(bad);
    CHECK_FALSE(listen_address_complaint(bad).empty());
    CHECK_FALSE(MetricsServer::start(bad, [] { return std::string(); }));
  }
}
