#include "identity/rpc/http2_police.h"

#include <doctest/doctest.h>

#include <string>

using namespace inlay::identity::rpc;

namespace {

const std::string kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

std::string frame(int type, int flags, std::uint32_t stream, const std::string &payload = "") {
  const auto byte = [](std::size_t value) { return static_cast<char>(value & 0xff); };
  std::string bytes{byte(payload.size() >> 16), byte(payload.size() >> 8), byte(payload.size())};
  bytes += {static_cast<char>(type), static_cast<char>(flags)};
  bytes += {byte(stream >> 24), byte(stream >> 16), byte(stream >> 8), byte(stream)};
  return bytes + payload;
}

StreamCount count() { return std::make_shared<std::atomic<std::size_t>>(0); }

}  // namespace

TEST_CASE("streams are counted from the client's head to gRPC's end, in any pieces") {
  const StreamCount streams = count();
  {
    Http2Police police(streams, 8);
    const std::string client = kPreface + frame(4, 0, 0) + frame(1, 4, 1, "head") +
                               frame(0, 1, 1, "message") + frame(1, 4, 3, "head");
    for (const char &byte : client) CHECK(police.from_client({&byte, 1}));
    CHECK(*streams == 2);
    const std::string server = frame(4, 0, 0) + frame(1, 4, 1, "head") + frame(0, 0, 1, "message");
    CHECK(police.from_server(server));
    CHECK(*streams == 2);
    CHECK(police.from_server(frame(1, 5, 1, "trailers")));
    CHECK(*streams == 1);
    CHECK(police.from_client(frame(3, 0, 3, "code")));
    CHECK(*streams == 0);
    CHECK(police.from_client(frame(1, 4, 5, "head")));
  }
  CHECK(*streams == 0);
}

TEST_CASE("too many streams, resets or bytes of a request cut the connection") {
  Http2Police streams(count(), 1000);
  CHECK(streams.from_client(kPreface));
  std::uint32_t stream = 1;
  for (; stream < 2 * 128; stream += 2) CHECK(streams.from_client(frame(1, 4, stream)));
  CHECK(!streams.from_client(frame(1, 4, stream)));

  const StreamCount shared = count();
  Http2Police one(shared, 2);
  Http2Police other(shared, 2);
  CHECK(one.from_client(kPreface + frame(1, 4, 1)));
  CHECK(other.from_client(kPreface + frame(1, 4, 1)));
  CHECK(!other.from_client(frame(1, 4, 3)));

  Http2Police resets(count(), 8);
  CHECK(resets.from_client(kPreface));
  for (stream = 1; stream < 2 * 1000; stream += 2) {
    CHECK(resets.from_client(frame(1, 4, stream) + frame(3, 0, stream, "code")));
  }
  CHECK(!resets.from_client(frame(1, 4, stream) + frame(3, 0, stream, "code")));

  Http2Police bytes(count(), 8);
  CHECK(bytes.from_client(kPreface + frame(1, 4, 1)));
  for (int piece = 0; piece < 3; ++piece) {
    CHECK(bytes.from_client(frame(0, 0, 1, std::string(16384, 'x'))));
  }
  CHECK(!bytes.from_client(frame(0, 0, 1, "x")));
}
