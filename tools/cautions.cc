#include "tools/cautions.h"

#include <algorithm>
#include <array>
#include <unordered_set>

namespace inlay::tools {
namespace {

struct Sign {
  Severity severity;
  std::string_view about;
  std::string_view symbols;    // imported names, space-separated; a final * is any ending
  std::string_view libraries;  // beginnings of DT_NEEDED names, space-separated
  std::string_view text;
};

constexpr std::array kSigns = {
    Sign{Severity::caution, "io_uring", "io_uring_*", "liburing.so",
         "inlay does not see what goes through io_uring: if the program uses it for its network "
         "connections, they are not protected; switch that off in the program"},
    Sign{Severity::note, "TLS",
         "SSL_connect SSL_accept SSL_do_handshake gnutls_handshake SSL_ImportFD",
         "libssl.so libgnutls.so libssl3.so libmbedtls.so libwolfssl.so",
         "it can speak TLS itself: where it does, let its port through with mode = \"plaintext\" "
         "(the bytes are its own TLS), or switch its TLS off and leave it to inlay"},
    Sign{Severity::caution, "splice", "splice tee vmsplice", "",
         "refused with EINVAL on protected sockets; programs that try it fall back to read and "
         "write, or need it switched off"},
    Sign{Severity::note, "sendfile", "sendfile sendfile64", "",
         "works on protected sockets, but reads and encrypts in the process"},
    Sign{Severity::note, "syscall", "syscall", "",
         "calls through syscall() are covered; system calls in its own machine code would not be"},
    Sign{Severity::note, "dlopen", "dlopen", "",
         "it can load further libraries while it runs, which are not examined here"},
    Sign{Severity::caution, "seccomp", "seccomp_load", "libseccomp.so",
         "once it installs a system-call filter inlay starts no new threads or kinds of calls; "
         "what then cannot be protected is refused (reason sandboxed)"},
};

constexpr std::string_view kGoText =
    "contains Go code, whose network calls go past libc: they are not protected";

// Calls fn with each space-separated word of `words` until it returns true.
template <typename Fn>
bool any_word(std::string_view words, Fn fn) {
  while (!words.empty()) {
    std::size_t end = words.find(' ');
    if (fn(words.substr(0, end))) return true;
    words.remove_prefix(end == std::string_view::npos ? words.size() : end + 1);
  }
  return false;
}

bool of_libc(std::string_view path) {
  std::string_view name = path.substr(path.find_last_of('/') + 1);
  for (std::string_view part : {"libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so",
                                "libresolv.so", "libutil.so", "libnss_", "libanl.so"}) {
    if (name.substr(0, part.size()) == part) return true;
  }
  return false;
}

bool imports_any(const std::unordered_set<std::string_view> &imports, std::string_view symbols) {
  return any_word(symbols, [&](std::string_view symbol) {
    if (symbol.back() != '*') return imports.contains(symbol);
    symbol.remove_suffix(1);
    return std::any_of(imports.begin(), imports.end(), [&](std::string_view name) {
      return name.substr(0, symbol.size()) == symbol;
    });
  });
}

bool needs_any(const ElfImage &image, std::string_view libraries) {
  return any_word(libraries, [&](std::string_view library) {
    return std::any_of(image.needed.begin(), image.needed.end(), [&](const std::string &name) {
      return std::string_view(name).substr(0, library.size()) == library;
    });
  });
}

void note(std::vector<Caution> &cautions, Severity severity, std::string_view about,
          std::string_view text, const std::string &object) {
  auto same = [&](const Caution &caution) { return caution.about == about; };
  auto found = std::find_if(cautions.begin(), cautions.end(), same);
  if (found == cautions.end()) {
    found = cautions.insert(found, {severity, std::string(about), std::string(text), {}});
  }
  found->objects.push_back(object);
}

}  // namespace

std::vector<Caution> cautions_of(const std::vector<ExaminedObject> &objects) {
  std::vector<Caution> cautions;
  for (const ExaminedObject &object : objects) {
    if (of_libc(object.path)) continue;
    std::unordered_set<std::string_view> imports(object.image.imports.begin(),
                                                 object.image.imports.end());
    for (const Sign &sign : kSigns) {
      if (imports_any(imports, sign.symbols) || needs_any(object.image, sign.libraries)) {
        note(cautions, sign.severity, sign.about, sign.text, object.path);
      }
    }
    if (object.image.go) note(cautions, Severity::caution, "Go", kGoText, object.path);
  }
  std::stable_sort(cautions.begin(), cautions.end(), [](const Caution &a, const Caution &b) {
    return a.severity == Severity::caution && b.severity == Severity::note;
  });
  return cautions;
}

std::vector<std::string> strict_effects(const std::vector<Caution> &cautions, bool reached) {
  auto uses = [&](std::string_view about) {
    return std::any_of(cautions.begin(), cautions.end(),
                       [&](const Caution &caution) { return caution.about == about; });
  };
  std::vector<std::string> effects;
  if (!reached) {
    effects.push_back("its TCP sockets give EACCES, even where --allow-unprotected starts it");
  }
  if (uses("Go")) effects.push_back("the TCP sockets of its Go code give EACCES");
  if (uses("io_uring")) {
    effects.push_back("io_uring_setup gives ENOSYS: it has to fall back to epoll");
  }
  effects.push_back(
      "what it starts gains no privilege from set-user-ID or file capabilities (sudo, ping); TCP "
      "of the C library's own (DNS over TCP, rcmd) gives EACCES");
  return effects;
}

}  // namespace inlay::tools
