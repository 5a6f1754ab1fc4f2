# A cluster for the labs on Amazon's cloud. It was formatted, parsed and examined, and never applied: docs/kubernetes.md.

terraform {
  required_version = ">= 1.6"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "5.100.0"
    }
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = {
      project = "streamlab"
      cluster = var.cluster_name
    }
  }
}
