#include "tools/exec_line.h"

#include <fmt/format.h>

namespace inlay::tools {
namespace {

using Failure = tl::unexpected<std::string>;

constexpr std::string_view kSpace = " \t\r\n\f\v";

// The next word as written; `rest` begins behind it. An unfinished quote is an error.
tl::expected<std::string, std::string> take_word(std::string_view &rest) {
  const std::size_t first = rest.find_first_not_of(kSpace);
  rest.remove_prefix(first == rest.npos ? rest.size() : first);
  char quote = '\0';
  std::size_t i = 0;
  for (; i < rest.size(); ++i) {
    const char c = rest[i];
    if (c == '\\') {
      ++i;
    } else if (quote != '\0') {
      if (c == quote) quote = '\0';
    } else if (c == '"' || c == '\'') {
      quote = c;
    } else if (kSpace.find(c) != kSpace.npos) {
      break;
    }
  }
  if (quote != '\0' || i > rest.size()) return Failure("a quote or backslash is not finished");
  std::string word(rest.substr(0, i));
  rest.remove_prefix(i);
  return word;
}

tl::expected<std::string, std::string> without_quotes(std::string_view word) {
  std::string out;
  char quote = '\0';
  for (std::size_t i = 0; i < word.size(); ++i) {
    const char c = word[i];
    if (c == '\\') {
      const char next = word[++i];
      if (std::string_view("\\\"' ").find(next) == std::string_view::npos) {
        return Failure(fmt::format("\\{} in the path of a command is not understood", next));
      }
      out += next;
    } else if (quote != '\0' ? c == quote : (c == '"' || c == '\'')) {
      quote = quote != '\0' ? '\0' : c;
    } else {
      out += c;
    }
  }
  return out;
}

tl::expected<ExecLine, std::string> parse_one(std::string_view text) {
  ExecLine line;
  bool names_argv0 = false;
  while (!text.empty() && std::string_view("-:+!@").find(text[0]) != std::string_view::npos) {
    if (text[0] == '@') {
      names_argv0 = true;
    } else {
      line.prefix += text[0];
    }
    text.remove_prefix(1);
  }
  if (text.starts_with('|')) return Failure("\"|\" in front of a command is not understood");
  auto path = take_word(text);
  if (!path) return Failure(path.error());
  line.path = std::move(*path);
  auto program = without_quotes(line.path);
  if (!program) return Failure(program.error());
  line.program = std::move(*program);
  if (line.program.empty()) return Failure("there is no command");
  if (names_argv0) {
    auto argv0 = take_word(text);
    if (!argv0) return Failure(argv0.error());
    if (argv0->empty()) return Failure("\"@\" without a name behind the command");
    line.argv0 = std::move(*argv0);
  }
  line.arguments = text;
  return line;
}

}  // namespace

tl::expected<std::vector<ExecLine>, std::string> parse_exec_lines(std::string_view value) {
  std::vector<ExecLine> lines;
  std::string_view rest = value;
  while (true) {
    // Up to a word that is ";".
    const char *const start = rest.data();
    const char *end = nullptr;
    bool last = false;
    while (end == nullptr) {
      const auto word = take_word(rest);
      if (!word) return Failure(word.error());
      last = word->empty();
      if (last || *word == ";") end = rest.data() - (last ? 0 : 1);
    }
    std::string_view command(start, static_cast<std::size_t>(end - start));
    const std::size_t first = command.find_first_not_of(kSpace);
    command.remove_prefix(first == command.npos ? command.size() : first);
    const std::size_t behind = command.find_last_not_of(kSpace);
    command = command.substr(0, behind == command.npos ? 0 : behind + 1);
    if (!command.empty()) {
      auto line = parse_one(command);
      if (!line) return Failure(line.error());
      lines.push_back(std::move(*line));
    }
    if (last) break;
  }
  if (lines.empty()) return Failure("there is no command");
  return lines;
}

std::string started_by(const std::vector<std::string> &run, const ExecLine &line) {
  // What systemd replaces in arguments ($, but not behind ":") it leaves alone in the command's own
  // path, which becomes an argument here.
  std::string path;
  const bool replaces = line.prefix.find(':') == line.prefix.npos;
  for (const char c : line.path) path += c == '$' && replaces ? "$$" : std::string(1, c);
  std::string out = line.prefix;
  for (const std::string &word : run) out += (&word == &run.front() ? "" : " ") + quoted_word(word);
  if (!line.argv0.empty()) out += " --argv0=" + line.argv0;
  return out + " -- " + path + line.arguments;
}

tl::expected<std::string, std::string> with_specifiers(std::string_view text,
                                                       std::string_view unit) {
  const std::string_view name = unit.substr(0, unit.rfind('.'));
  const std::size_t at = name.find('@');
  const std::string_view instance = at == name.npos ? std::string_view() : name.substr(at + 1);
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    switch (const char what = i + 1 < text.size() ? text[++i] : '\0'; what) {
      case '%':
        out += '%';
        break;
      case 'i':
        out += instance;
        break;
      case 'n':
        out += unit;
        break;
      case 'N':
        out += name;
        break;
      case 'p':
        out += name.substr(0, at);
        break;
      default:
        return Failure(fmt::format("%{} in the path of a command is not understood", what));
    }
  }
  return out;
}

std::string quoted_word(std::string_view text) {
  std::string out;
  bool plain = !text.empty();
  for (const char c : text) {
    if (kSpace.find(c) != kSpace.npos || c == '"' || c == '\'' || c == ';') plain = false;
    if (c == '"' || c == '\\') out += '\\';
    out += c;
    if (c == '$' || c == '%') out += c;
  }
  return plain ? out : '"' + out + '"';
}

}  // namespace inlay::tools
