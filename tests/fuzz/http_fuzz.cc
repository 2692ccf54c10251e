// Requests of HTTP/1.1.
#include "identity/rpc/http_request.h"
#include "input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
  using namespace inlay::identity::rpc;
  inlay::fuzz::Input input(data, size);
  const std::string_view whole = input.text();
  const auto read = read_http_request(whole);
  if (!read) {
    inlay::fuzz::must(whole.size() <= kMaxRequestHead + 4 + kMaxRequestBody);
    return 0;
  }
  const auto half = read_http_request(whole.substr(0, whole.size() / 2));
  if (*read) {
    inlay::fuzz::must(!half || *half);
    inlay::fuzz::must((*read)->path.starts_with('/'));
    inlay::fuzz::must((*read)->path.find_first_of(" ?\r\n") == std::string::npos);
    inlay::fuzz::must((*read)->authorization.find_first_of("\r\n") == std::string::npos);
    inlay::fuzz::must((*read)->body.size() <= kMaxRequestBody);
  } else {
    inlay::fuzz::must(!half || !*half);
    inlay::fuzz::must(read->error().status >= 400 && read->error().status < 600);
  }
  return 0;
}
