// Own stand-ins for four small libraries that MailHog imports and the Go module proxy does not have.
module github.com/ian-kent

go 1.24
