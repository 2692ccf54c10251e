#include "identity/rpc/http_request.h"

#include <doctest/doctest.h>

#include <string>

using namespace inlay::identity::rpc;

namespace {

int status_of(const std::string &bytes) {
  const auto read = read_http_request(bytes);
  REQUIRE_MESSAGE(read, bytes);
  return *read ? 200 : read->error().status;
}

std::string with(const std::string &fields, const std::string &body = "") {
  return "POST /a HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n" + body;
}

}  // namespace

TEST_CASE("a request is read when it is whole, and not before") {
  const std::string whole =
      "POST /.well-known/est/simpleenroll?x=1 HTTP/1.1\r\nHost: ca.example.org\r\n"
      "content-type:  application/pkcs10 \r\nAuthorization: Basic YTpi\r\nContent-Length: 3\r\n\r\n"
      "abc";
  for (std::size_t length = 0; length < whole.size(); ++length) {
    CHECK(!read_http_request(std::string_view(whole).substr(0, length)));
  }
  const auto read = read_http_request(whole + "more");
  REQUIRE(read);
  REQUIRE(*read);
  CHECK((*read)->method == "POST");
  CHECK((*read)->path == "/.well-known/est/simpleenroll");
  CHECK((*read)->content_type == "application/pkcs10");
  CHECK((*read)->authorization == "Basic YTpi");
  CHECK((*read)->body == "abc");
}

TEST_CASE("what two readers could take for two things is refused") {
  const struct {
    std::string request;
    int status;
  } table[] = {
      {with(""), 200},
      {"GET / HTTP/1.0\r\n\r\n", 200},
      {with("X-Other: \x80\r\n"), 400},
      {"GET / HTTP/1.1\r\n\r\n", 400},
      {"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505},
      {"GET /\r\n\r\n", 400},
      {"GET  HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET /\t HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET /" + std::string(3000, 'a') + " HTTP/1.1\r\nHost: a\r\n\r\n", 414},
      {with("Host: b\r\n"), 400},
      {with("Content-Length: 0\r\nContent-Length: 0\r\n"), 400},
      {with("Content-Length: +1\r\n", "a"), 400},
      {with("Content-Length: -1\r\n", "a"), 400},
      {with("Content-Length: 0x1\r\n", "a"), 400},
      {with("Content-Length: 1, 1\r\n", "a"), 400},
      {with("Content-Length:\r\n", "a"), 400},
      {with("Content-Length: 65537\r\n", "a"), 413},
      {with("Content-Length: 99999999999999999999999\r\n", "a"), 413},
      {with("Transfer-Encoding: chunked\r\n", "0\r\n\r\n"), 411},
      {with("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", "a"), 411},
      {with("Expect: 100-continue\r\nContent-Length: 1\r\n"), 417},
      {with("X: a\r\n b\r\n"), 400},
      {with("X : a\r\n"), 400},
      {with("X\r\n"), 400},
      {with(": a\r\n"), 400},
      {with("X: a\nY: b\r\n"), 400},
      {with("X: a\rY: b\r\n"), 400},
      {with(std::string("X: a\0b\r\n", 8)), 400},
      {with("Authorization: Basic a\r\nAuthorization: Basic b\r\n"), 400},
      {with("X: " + std::string(20000, 'a') + "\r\n"), 431},
      {std::string(20000, 'a'), 431},
  };
  for (const auto &row : table) CHECK_MESSAGE(status_of(row.request) == row.status, row.request);
}
