// As much of PTX as a launch depends on.
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "module.hpp"

namespace stand_in {

namespace {

// Words, numbers and single signs; comments are left out.
std::vector<std::string> words_of(const std::string& text) {
    std::vector<std::string> words;
    for (size_t at = 0; at < text.size();) {
        auto is_word = [&](char c) {
            return isalnum((unsigned char)c) || c == '_' || c == '$' || c == '.' || c == '%';
        };
        if (text.compare(at, 2, "//") == 0) {
            at = std::min(text.find('\n', at), text.size());
        } else if (text.compare(at, 2, "/*") == 0) {
            size_t end = text.find("*/", at);
            at = end == std::string::npos ? text.size() : end + 2;
        } else if (isspace((unsigned char)text[at])) {
            at++;
        } else if (is_word(text[at])) {
            size_t end = at;
            while (end < text.size() && is_word(text[end])) end++;
            words.push_back(text.substr(at, end - at));
            at = end;
        } else {
            words.push_back(text.substr(at++, 1));
        }
    }
    return words;
}

// Of `.u64` 8; 0 if it names no type.
size_t bytes_of_type(const std::string& word) {
    if (word.size() < 3 || word[0] != '.' || !strchr("usfb", word[1])) return 0;
    int bits = atoi(word.c_str() + 2);
    return bits >= 8 ? size_t(bits) / 8 : 0;
}

struct Reader {
    const std::vector<std::string>& words;
    size_t at;

    bool done() const { return at >= words.size(); }
    const std::string& word() const { return words[at]; }

    // A declaration up to `,`, `;` or `)`: its type's bytes, times the numbers in brackets.
    size_t declared_bytes() {
        size_t bytes = 0;
        for (; !done() && !strchr(",;)", word()[0]); at++) {
            if (size_t type = bytes_of_type(word())) bytes = type;
            if (word() == "[" && at + 1 < words.size()) bytes *= size_t(strtoull(words[at + 1].c_str(), nullptr, 10));
        }
        return bytes;
    }

    std::vector<size_t> parameters() {
        std::vector<size_t> bytes;
        for (at++; !done() && word() != ")"; at++) {
            if (word() == ".param") {
                bytes.push_back(declared_bytes());
                if (!done() && word() == ")") break;
            }
        }
        at++;
        return bytes;
    }

    void body(EntryText& entry) {
        int depth = 0;
        for (; !done(); at++) {
            if (word() == "{") depth++;
            if (word() == "}" && --depth == 0) return;
            if (word() == ".shared" && words[at - 1] != ".extern" && depth == 1)
                entry.static_shared += declared_bytes();
        }
    }

    EntryText entry() {
        EntryText entry;
        if (word() == "(") entry.parameter_bytes = parameters();
        for (; !done() && word() != "{" && word() != ";"; at++) {
            if (word() != ".maxntid") continue;
            // `.maxntid 256` or `.maxntid 16, 16, 1`
            entry.threads_max = 1;
            do {
                entry.threads_max *= unsigned(atoi(words[++at].c_str()));
                at++;
            } while (!done() && word() == ",");
            at--;
        }
        if (!done() && word() == "{") body(entry);
        return entry;
    }
};

}  // namespace

bool read_ptx(const std::string& text, Ptx& ptx) {
    std::vector<std::string> words = words_of(text);
    size_t shared_of_all = 0;
    Reader reader{words, 0};
    for (; !reader.done(); reader.at++) {
        if (reader.at + 1 >= words.size()) break;
        const std::string& word = reader.word();
        if (word == ".version") {
            int major = 0, minor = 0;
            sscanf(words[reader.at + 1].c_str(), "%d.%d", &major, &minor);
            ptx.version = major * 10 + minor;
        } else if (word == ".target") {
            const std::string& target = words[reader.at + 1];
            if (target.compare(0, 3, "sm_") != 0) return false;
            ptx.target = atoi(target.c_str() + 3);
            ptx.only_that_target = target.back() == 'a';
        } else if (word == ".shared" && (reader.at == 0 || words[reader.at - 1] != ".extern")) {
            shared_of_all += reader.declared_bytes();
        } else if (word == ".func") {
            EntryText skipped;
            while (!reader.done() && reader.word() != "{" && reader.word() != ";") reader.at++;
            if (!reader.done() && reader.word() == "{") reader.body(skipped);
        } else if (word == ".entry") {
            std::string name = words[reader.at + 1];
            reader.at += 2;
            if (reader.done()) return false;
            ptx.entries[name] = reader.entry();
        }
    }
    for (auto& [name, entry] : ptx.entries) entry.static_shared += shared_of_all;
    return ptx.version > 0 && ptx.target > 0;
}

}  // namespace stand_in
