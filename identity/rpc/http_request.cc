#include "identity/rpc/http_request.h"

#include <algorithm>
#include <array>
#include <charconv>

namespace inlay::identity::rpc {
namespace {

constexpr std::size_t kMaxTarget = 2048;
constexpr std::string_view kEndOfLine = "\r\n";
constexpr std::string_view kEndOfHead = "\r\n\r\n";

tl::unexpected<HttpProblem> problem(int status, std::string message) {
  return tl::unexpected(HttpProblem{status, std::move(message)});
}

// RFC 9110 §5.6.2.
bool is_token(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
  });
}

bool is_printable(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c > ' ' && c < '\x7f'; });
}

// RFC 9110 §5.5: no control characters. Of the others nothing here needs those beyond ASCII.
bool is_value(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c == '\t' || (c >= ' ' && c != '\x7f'); });
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t";
  const std::size_t first = text.find_first_not_of(kBlank);
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char &c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

// The fields that mean something here, each of which may be there once.
struct Fields {
  std::optional<std::string> host, content_length, transfer_encoding, expect, authorization,
      content_type;

  std::optional<std::string> *find(std::string_view name) {
    const std::array<std::pair<std::string_view, std::optional<std::string> *>, 6> known{{
        {"host", &host},
        {"content-length", &content_length},
        {"transfer-encoding", &transfer_encoding},
        {"expect", &expect},
        {"authorization", &authorization},
        {"content-type", &content_type},
    }};
    const auto found = std::ranges::find(known, name, [](const auto &it) { return it.first; });
    return found == known.end() ? nullptr : found->second;
  }
};

tl::expected<void, HttpProblem> read_line(std::string_view line, HttpRequest *request,
                                          bool *newer) {
  const std::size_t first = line.find(' '), last = line.rfind(' ');
  if (first == line.npos || first == last) return problem(400, "the request line has three parts");
  const std::string_view method = line.substr(0, first), version = line.substr(last + 1);
  std::string_view target = line.substr(first + 1, last - first - 1);
  if (version != "HTTP/1.1" && version != "HTTP/1.0") {
    return version.starts_with("HTTP/") ? problem(505, "this is HTTP/1.1")
                                        : problem(400, "this is HTTP/1.1");
  }
  if (!is_token(method)) return problem(400, "the method is malformed");
  if (target.size() > kMaxTarget) return problem(414, "the path is too long");
  if (!target.starts_with('/') || !is_printable(target)) {
    return problem(400, "the path is malformed");
  }
  *newer = version == "HTTP/1.1";
  request->method = method;
  request->path = target.substr(0, target.find('?'));
  return {};
}

tl::expected<void, HttpProblem> read_fields(std::string_view rest, Fields *fields) {
  while (!rest.empty()) {
    const std::size_t end = rest.find(kEndOfLine);
    const std::string_view line = rest.substr(0, end);
    rest = rest.substr(end + kEndOfLine.size());
    const std::size_t colon = line.find(':');
    // A line that goes on from the one before begins with a blank, which is in no token.
    if (colon == line.npos || !is_token(line.substr(0, colon))) {
      return problem(400, "a header field is malformed");
    }
    const std::string_view value = trimmed(line.substr(colon + 1));
    if (!is_value(value)) return problem(400, "a header field is malformed");
    auto *const field = fields->find(lower(line.substr(0, colon)));
    if (field == nullptr) continue;
    if (*field) return problem(400, "a header field is there twice");
    *field = value;
  }
  return {};
}

// RFC 9112 §6.3.
tl::expected<std::size_t, HttpProblem> body_length(const Fields &fields) {
  if (fields.transfer_encoding) return problem(411, "send the body with a Content-Length");
  if (!fields.content_length) return 0;
  const std::string &text = *fields.content_length;
  std::size_t length = 0;
  const char *const end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, length);
  if (text.empty() || parsed.ptr != end) return problem(400, "the Content-Length is no number");
  if (parsed.ec != std::errc() || length > kMaxRequestBody) {
    return problem(413, "the body is too long");
  }
  return length;
}

}  // namespace

std::optional<tl::expected<HttpRequest, HttpProblem>> read_http_request(std::string_view bytes) {
  const std::size_t end = bytes.find(kEndOfHead);
  if (std::min(end, bytes.size()) > kMaxRequestHead) {
    return problem(431, "the header is too long");
  }
  if (end == bytes.npos) return std::nullopt;
  const std::string_view head = bytes.substr(0, end + kEndOfLine.size());
  const std::size_t line_end = head.find(kEndOfLine);
  HttpRequest request;
  Fields fields;
  bool newer = false;
  if (auto read = read_line(head.substr(0, line_end), &request, &newer); !read) {
    return tl::unexpected(std::move(read.error()));
  }
  if (auto read = read_fields(head.substr(line_end + kEndOfLine.size()), &fields); !read) {
    return tl::unexpected(std::move(read.error()));
  }
  if (newer && !fields.host) return problem(400, "there is no Host");
  if (fields.expect) return problem(417, "send the body at once");
  const auto length = body_length(fields);
  if (!length) return tl::unexpected(length.error());
  const std::string_view body = bytes.substr(end + kEndOfHead.size());
  if (body.size() < *length) return std::nullopt;
  request.authorization = fields.authorization.value_or("");
  request.content_type = fields.content_type.value_or("");
  request.body = body.substr(0, *length);
  return request;
}

}  // namespace inlay::identity::rpc
